"""DINOv2 features (Oquab et al. 2023), with which Fréchet distances follow human judgement better.

Stein et al. (2023) compare the networks; their FD uses ViT-L/14 and its class token.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldm.conditioners.pretrained import read_weights
from ldm.errors import CheckpointError
from ldm.evaluation.networks.base import PublishedWeights
from ldm.evaluation.networks.resizing import NETWORK, resizer
from ldm.evaluation.networks.vgg16 import MEAN, STD
from ldm.files import file_sha256

WEIGHTS = PublishedWeights(
    "DINOv2", "dinov2_vitl14_pretrain.pth", "", "the repository facebookresearch/dinov2"
)
SIDE = 224
OWN_RESIZE = "pil-bicubic"
"""As in the code of Stein et al.: torchvision's bicubic on Pillow images."""

_FOLDER_FILES = ("model.safetensors", "pytorch_model.bin")
_HEAD_WIDTH = 64
_OFFSET = 0.1
"""Added to the number of patches on a side by the original when it resizes position embeddings."""
_NAMES = (
    (r"^(cls_token|mask_token)$", r"embeddings.\1"),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^norm\.", "layernorm."),
    (r"^blocks\.", "encoder.layer."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.ls(\d)\.gamma$", r".layer_scale\1.lambda1"),
)
"""From the names of the original file to those of transformers."""


class DINOv2Network(nn.Module):
    """``cls``: the class token after the last norm; a :class:`~ldm.evaluation.Network`.

    Args:
        network: a ``transformers.Dinov2Model`` for images of 224 pixels.
        resize: name of a resizer; ``network`` is ``OWN_RESIZE``, outside.
        weights_file: where the weights came from, for reports.
        weights_sha256: digest of that file.
    """

    name = "dinov2"
    input_size = SIDE

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        resize: str = NETWORK,
        weights_file: str = "",
        weights_sha256: str = "",
    ) -> None:
        super().__init__()
        parts: Any = network
        self.network = network
        self.register_buffer("mean", 255 * torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(STD).view(3, 1, 1), persistent=False)
        self.resize = resizer(OWN_RESIZE if resize == NETWORK else resize, SIDE)
        self.weights_file, self.weights_sha256 = weights_file, weights_sha256
        self.remark = WEIGHTS.remark(weights_sha256)
        self.outputs: Mapping[str, int] = {"cls": parts.config.hidden_size}
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, 224, 224) in [0, 255], uint8 or float, to features (B, D) by name."""
        pixels = (images.float() - self.mean) / self.std
        return {"cls": self.network(pixel_values=pixels).last_hidden_state[:, 0]}


def dinov2(weights: str | Path | None = None, resize: str = NETWORK) -> DINOv2Network:
    """DINOv2 with the weights of a file; arguments as for ``networks.network``.

    Args:
        weights: the original's file, one of transformers, or a folder with one. The size of the
            network is read off it.
        resize: name of a resizer.

    Raises:
        CheckpointError: the weights are absent, damaged or of another network.
    """
    path = _file(weights)
    return DINOv2Network(_load(path), resize, str(path), file_sha256(path)).eval()


def positions(embeddings: Tensor, side: int) -> Tensor:
    """Position embeddings (1, 1 + m * m, D) for another number of patches, (1, 1 + side ** 2, D).

    Bicubic, scaled by (side + 0.1) / m as the original does; transformers scales by side / m, and
    its features differ from published ones by as much.
    """
    token, grid = embeddings[:, :1], embeddings[:, 1:].float()
    old = int(grid.shape[1] ** 0.5)
    if old == side:
        return embeddings
    maps = grid.unflatten(1, (old, old)).permute(0, 3, 1, 2)
    scale = (side + _OFFSET) / old
    resized = F.interpolate(maps, scale_factor=(scale, scale), mode="bicubic")
    return torch.cat([token, resized.flatten(2).transpose(1, 2).to(token)], dim=1)


def _file(weights: str | Path | None) -> Path:
    folder = None if weights is None else Path(weights).expanduser()
    if folder is None or not folder.is_dir():
        return WEIGHTS.find(weights)
    for name in _FOLDER_FILES:
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(f"DINOv2 weights: {folder} holds no {' or '.join(_FOLDER_FILES)}")


def _load(path: Path) -> nn.Module:
    """The network whose shapes and values are those of a file."""
    from transformers import Dinov2Config, Dinov2Model

    state = _renamed(read_weights(path))
    try:
        if any("register_tokens" in key for key in state):
            raise CheckpointError(f"'{path}' holds a DINOv2 with registers: take one without")
        patch = state["embeddings.patch_embeddings.projection.weight"]
        width, side = patch.shape[0], SIDE // patch.shape[-1]
        key = "embeddings.position_embeddings"
        state[key] = positions(state[key], side)
        config = Dinov2Config(
            hidden_size=width,
            num_hidden_layers=1 + max(int(k.split(".")[2]) for k in state if "r.layer." in k),
            num_attention_heads=width // _HEAD_WIDTH,
            mlp_ratio=state["encoder.layer.0.mlp.fc1.weight"].shape[0] // width,
            patch_size=patch.shape[-1],
            image_size=SIDE,
        )
        with _quietly():
            loaded: Any = Dinov2Model.from_pretrained(
                None, config=config, state_dict=state, output_loading_info=True
            )
        network, found = loaded
    except (KeyError, IndexError, ValueError, RuntimeError, ZeroDivisionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise _unfit(path, f"{type(error).__name__}: {error}".splitlines()[0]) from error
    odd = [*found["missing_keys"], *found["unexpected_keys"], *found["mismatched_keys"]]
    if odd:
        raise _unfit(path, f"{len(odd)} weights missing or surplus, first {odd[0]}")
    model: nn.Module = network
    return model


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the progress bar of transformers."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _unfit(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"'{path}' does not hold the weights of a DINOv2 network ({reason}): take {WEIGHTS.file} "
        "or the folder facebook/dinov2-large of transformers"
    )


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by the names of transformers, whichever way the file has them."""
    if "pos_embed" not in state:
        return dict(state)
    renamed = {}
    for key, value in state.items():
        for pattern, replacement in _NAMES:
            key = re.sub(pattern, replacement, key)
        if ".attn.qkv." in key:
            for name, part in zip(("query", "key", "value"), value.chunk(3), strict=True):
                renamed[key.replace(".attn.qkv.", f".attention.attention.{name}.")] = part
        else:
            renamed[key] = value
    return renamed
