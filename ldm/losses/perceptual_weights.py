"""Where the weights of LPIPS come from: files, never the network."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ldm.errors import CheckpointError

VGG16 = "vgg16-397923af.pth"
"""Name that torchvision gives to the file."""
_FETCH = "python -c \"import torchvision; torchvision.models.vgg16(weights='IMAGENET1K_V1')\""
_HEADS = "weights/v0.1/vgg.pth"


def load_weights(
    network: nn.Module,
    vgg_weights: str | Path | None = None,
    lin_weights: str | Path | None = None,
) -> None:
    """Fill an ``LPIPS`` from files; arguments as for :func:`ldm.losses.perceptual.lpips`.

    Raises:
        CheckpointError: a file is absent, damaged or of another network.
    """
    vgg_path = Path(torch.hub.get_dir(), "checkpoints", VGG16)
    vgg_path = vgg_path if vgg_weights is None else Path(vgg_weights)
    if not vgg_path.is_file():
        raise CheckpointError(
            f"{vgg_path}: no such file. LPIPS needs the weights of torchvision's VGG16 ({VGG16}, "
            "528 MB): put the file there, or name it: vgg_weights in the params of a config, "
            "--vgg-weights of a script; "
            f"`{_FETCH}` fetches it into {torch.hub.get_dir()}/checkpoints. To train without "
            "LPIPS, set perceptual: null and perceptual_weight: 0 of the objective"
        )
    lin_path = _packaged_heads() if lin_weights is None else Path(lin_weights)
    if not lin_path.is_file():
        raise CheckpointError(f"{lin_path}: no such file; lin_weights names the heads of LPIPS")
    vgg = {key.removeprefix("features."): value for key, value in _read(vgg_path).items()}
    heads = _read(lin_path)
    state = {}
    for key, weight in network.state_dict().items():
        if key.startswith("net."):  # net.slice3.10.bias is features.10.bias of torchvision
            name = key.split(".", 2)[2]
            state[key] = _fitting(vgg_path, "torchvision's VGG16", vgg, name, weight)
        elif key.startswith("lin"):
            state[key] = _fitting(lin_path, "the heads of LPIPS for VGG16", heads, key, weight)
    network.load_state_dict(state, strict=False)  # the scaling has no weights


def _packaged_heads() -> Path:
    """The file in the package ``lpips``, found without the cost of importing that."""
    spec = importlib.util.find_spec("lpips")
    if spec is None or not spec.submodule_search_locations:
        raise CheckpointError(
            "the package lpips, which holds the heads of LPIPS, is not installed: "
            "pip install lpips, or name the file with lin_weights"
        )
    return Path(spec.submodule_search_locations[0], *_HEADS.split("/"))


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise anything at all
        raise CheckpointError(
            f"{path} is damaged or no file of weights ({type(error).__name__}); fetch it again"
        ) from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds no dict of weights")
    return {str(key): value for key, value in content.items()}


def _fitting(path: Path, what: str, state: Mapping[str, Any], name: str, like: Tensor) -> Tensor:
    found = state.get(name)
    if not isinstance(found, Tensor):
        raise CheckpointError(f"{path} does not hold {what}: it has no {name}")
    if found.shape != like.shape:
        raise CheckpointError(
            f"{path} does not hold {what}: {name} has shape {(*found.shape,)}, not {(*like.shape,)}"
        )
    return found
