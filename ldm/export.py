"""Files for inference, of the weights of a model alone, in three formats.

=============  =========================================================================
``native``     ``config.yaml`` and ``model.safetensors``
``compvis``    ``model.ckpt``; for an autoencoder also ``config.yaml`` of the original code
``diffusers``  ``config.json`` and ``diffusion_pytorch_model.safetensors`` of an autoencoder
=============  =========================================================================

``ldm.load.load_model`` reads all of these folders, but for a diffusion model in ``compvis`` format,
which needs its config besides.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from ldm.checkpoint import save
from ldm.compat import diffusers
from ldm.compat.checkpoints import to_compvis
from ldm.compat.compvis_networks import to_compvis_first_stage
from ldm.compat.diffusers_weights import to_diffusers
from ldm.config import save_config, write_atomically
from ldm.diffusion.latent import LatentDiffusion
from ldm.errors import ConfigError
from ldm.load import load_model

FORMATS = ("native", "compvis", "diffusers")
FILES = ("config.yaml", "config.json", "model.safetensors", "model.ckpt", diffusers.WEIGHTS)
"""Names of all files that ``export`` writes in some format."""
_SIDE = 64
"""Least side in pixels of the image that two models are compared on."""


def export(
    model: nn.Module,
    config: DictConfig,
    folder: Path,
    format: str,
    scaling_factor: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a model into a folder, its files one by one and each of them atomically.

    Args:
        model: a ``LatentDiffusion`` or an autoencoder.
        config: what the model was built from, as ``model``, without pretrained parts.
        folder: where the files go.
        format: one of ``FORMATS``.
        scaling_factor: factor of the latents, which ``config.json`` of diffusers names.
        dtype: of the parameters; other tensors keep theirs.

    Raises:
        ConfigError: the format has no such model.
        CheckpointError: it has no name for one of the weights.
    """
    weights = _weights(model, dtype)
    if format == "native":
        save_config(config, folder / "config.yaml")
        save(weights, folder / "model.safetensors")
    elif format == "compvis":
        _export_compvis(model, weights, config, folder)
    elif format == "diffusers":
        if isinstance(model, LatentDiffusion):
            raise ConfigError("diffusers: only an autoencoder can be exported, not a whole model")
        settings = diffusers.to_config(_node(config), scaling_factor)
        text = json.dumps(settings, indent=2) + "\n"
        write_atomically(folder / "config.json", lambda file: file.write(text.encode()))
        save(to_diffusers(weights), folder / diffusers.WEIGHTS)
    else:
        raise ValueError(f"unknown format {format!r}: choose one of {', '.join(FORMATS)}")


def first_stage(model: nn.Module, config: DictConfig) -> tuple[nn.Module, DictConfig]:
    """The autoencoder of a ``LatentDiffusion``, or what is one already, with its config.

    A config that is made here says under ``scale_factor`` by what the latents are to be multiplied.
    """
    if not isinstance(model, LatentDiffusion):
        return model, config
    node = OmegaConf.to_container(config.model.params.autoencoder, resolve=True)
    factor = float(model.scale_factor)
    return model.autoencoder, OmegaConf.create({"model": node, "scale_factor": factor})


def read_back(folder: Path, config: DictConfig) -> nn.Module:
    """The model in a folder that ``export`` filled, from ``config`` only if it holds none."""
    described = any((folder / name).exists() for name in ("config.yaml", "config.json"))
    return load_model(folder) if described else load_model(config, folder / "model.ckpt")


def round_parameters(model: nn.Module, dtype: torch.dtype) -> None:
    """Round the parameters as storing them in ``dtype`` does, and keep their own dtype."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(dtype))


@torch.no_grad()
def differences(one: nn.Module, other: nn.Module) -> dict[str, float]:
    """Largest differences between two models: of weights, and of a fixed image's way through.

    Args:
        one: a ``LatentDiffusion`` or an autoencoder.
        other: a model with the same parts.

    Returns:
        By ``weights``, ``latents`` (mode and a sample) and ``images``; NaN where a value is NaN.
    """
    ours, theirs = one.state_dict(), other.state_dict()
    shared = ours.keys() & theirs.keys()
    both: Any = [m.autoencoder if isinstance(m, LatentDiffusion) else m for m in (one, other)]
    image = _fixed_image(both[0])
    latents = [_latents(autoencoder, image) for autoencoder in both]
    pairs = {
        "weights": [(ours[key], theirs[key]) for key in shared],
        "latents": list(zip(*latents, strict=True)),
        "images": [tuple(autoencoder.decode(latents[0][0]) for autoencoder in both)],
    }
    return {
        name: float(torch.tensor([_difference(*pair) for pair in found]).max()) if found else 0.0
        for name, found in pairs.items()
    }


def _weights(model: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    parameters = {key for key, _ in model.named_parameters(remove_duplicate=False)}
    return {
        key: value.detach().to(dtype) if key in parameters else value.detach()
        for key, value in model.state_dict().items()
    }


def _export_compvis(
    model: nn.Module, weights: Mapping[str, Tensor], config: DictConfig, folder: Path
) -> None:
    if isinstance(model, LatentDiffusion):
        # The original code samples with the averaged copy; without one it would be the initial one.
        names = [key for key, _ in model.denoiser.named_parameters(prefix="denoiser")]
        shadow = {key: weights[key] for key in names}
        state = to_compvis(weights, dict(model.schedule.named_buffers()), shadow)
    else:
        tree = OmegaConf.create({"model": to_compvis_first_stage(_node(config))})
        save_config(tree, folder / "config.yaml")
        state = to_compvis(weights)
    save({"state_dict": state}, folder / "model.ckpt")


def _node(config: DictConfig) -> Any:
    tree = OmegaConf.to_container(config, resolve=True)
    assert isinstance(tree, dict)
    return tree["model"]


def _fixed_image(autoencoder: Any) -> Tensor:
    """Noise (1, C, side, side) in [-1, 1]."""
    first = getattr(getattr(autoencoder, "encoder", None), "conv_in", None)
    channels = autoencoder.latent_channels if first is None else first.in_channels
    side = max(_SIDE, 2 * autoencoder.downsampling_factor)
    generator = torch.Generator().manual_seed(0)
    return torch.rand(1, channels, side, side, generator=generator) * 2 - 1


def _latents(autoencoder: Any, image: Tensor) -> tuple[Tensor, Tensor]:
    """Mode and a sample of the latents."""
    posterior = autoencoder.encode(image)
    return posterior.mode(), posterior.sample(torch.Generator().manual_seed(0))


def _difference(one: Tensor, other: Tensor) -> float:
    return float((one.double() - other.double()).abs().max()) if one.numel() else 0.0
