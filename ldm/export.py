"""Files for inference, of the weights of a model alone, in three formats.

=============  =========================================================================
``native``     ``config.yaml`` and ``model.safetensors``
``compvis``    ``model.ckpt``; for an autoencoder also ``config.yaml`` of the original code
``diffusers``  ``config.json`` and ``diffusion_pytorch_model.safetensors`` of an autoencoder
               or a UNet; of a diffusion model the folders of a pipeline
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
from ldm.compat.compvis.networks import to_compvis_first_stage
from ldm.compat.compvis.weights import is_training_only, to_compvis
from ldm.compat.diffusers import autoencoder as diffusers
from ldm.compat.diffusers.autoencoder import to_diffusers
from ldm.compat.diffusers.pipeline import CLIP_NAME, VOCAB_SIZE, pipeline_to_configs
from ldm.compat.diffusers.unet import unet_to_config
from ldm.compat.diffusers.unet_weights import unet_to_diffusers
from ldm.compat.native import UNET_NAME, read_unet
from ldm.conditioners import tokenizers as clip_tokenizer
from ldm.conditioners.spatial import LatentImage
from ldm.config import save_config
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.errors import ConfigError
from ldm.files import write_text
from ldm.layers.basics import GROUPS
from ldm.load.diffusers import SETTINGS, TEXT_WEIGHTS
from ldm.load.model import load_model
from ldm.load.portable import pack
from ldm.places import RUN_FILES

_TEXT = "conditioners.0.transformer."
_LAYER = "text_model.encoder.layers."
FORMATS = ("native", "compvis", "diffusers")
FILES = (
    *("config.yaml", "config.json", "model.safetensors", "model.ckpt", diffusers.WEIGHTS),
    *(part or name for part, name in SETTINGS.items()),
    RUN_FILES,
)
"""Names of all files and folders that ``export`` writes in some format."""
PARTS = ("autoencoder", "denoiser")
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
        model: a ``LatentDiffusion``, an autoencoder or a UNet.
        config: what the model was built from, as ``model``, without pretrained parts.
        folder: where the files go.
        format: one of ``FORMATS``.
        scaling_factor: factor of the latents, which ``config.json`` of an autoencoder of diffusers
            names. A ``LatentDiffusion`` has its own.
        dtype: of the parameters; other tensors keep theirs.

    Raises:
        ConfigError: the format has no such model.
        CheckpointError: it has no name for one of the weights.
    """
    weights = _weights(model, dtype)
    if format == "native":
        save_config(pack(config, folder)[0], folder / "config.yaml")
        save(weights, folder / "model.safetensors")
    elif format == "compvis":
        _export_compvis(model, weights, config, folder)
    elif format == "diffusers":
        if isinstance(model, LatentDiffusion):
            write_pipeline(model, weights, _node(config), folder)
        else:
            write_network(weights, _node(config), folder, scaling_factor)
    else:
        raise ValueError(f"unknown format {format!r}: choose one of {', '.join(FORMATS)}")


def part_of(model: nn.Module, config: DictConfig, part: str) -> tuple[nn.Module, DictConfig]:
    """The autoencoder or denoiser of a ``LatentDiffusion``, or the model itself if it is one part.

    The config that is made here for an autoencoder says under ``scale_factor`` by what its latents
    are to be multiplied.

    Raises:
        ConfigError: the model is the other part.
    """
    if not isinstance(model, LatentDiffusion):
        is_denoiser = _node(config).get("target") == UNET_NAME
        if is_denoiser is not (part == "denoiser"):
            raise ConfigError(f"there is no {part}: the source is {type(model).__name__} alone")
        return model, config
    node = OmegaConf.to_container(config.model.params[part], resolve=True)
    tree: dict[str, Any] = {"model": node}
    if part == "autoencoder":
        tree["scale_factor"] = float(model.scale_factor)
    return getattr(model, part), OmegaConf.create(tree)


def read_back(folder: Path, config: DictConfig) -> nn.Module:
    """The model in a folder that ``export`` filled, from ``config`` only if it holds none."""
    names = ("config.yaml", "config.json", SETTINGS[""])
    described = any((folder / name).exists() for name in names)
    if not described:
        return load_model(config, folder / "model.ckpt")
    return load_model(folder, trust=True)  # the config of a model that was built before


def round_parameters(model: nn.Module, dtype: torch.dtype) -> None:
    """Round the parameters as storing them in ``dtype`` does, and keep their own dtype."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(dtype))


@torch.no_grad()
def differences(one: nn.Module, other: nn.Module) -> dict[str, float]:
    """Largest differences between two models, of weights and of what they make of fixed inputs.

    Both become channels_last: another layout of the kernels would round sums in another order.

    Args:
        one: a ``LatentDiffusion``, an autoencoder or a UNet.
        other: a model with the same parts.

    Returns:
        By ``weights``; by ``latents`` (mode and a sample) and ``images`` if there is an
        autoencoder, and by ``predictions`` if there is a denoiser; NaN where a value is NaN.
    """
    for model in (one, other):
        model.to(memory_format=torch.channels_last)
    ours, theirs = _comparable(one), _comparable(other)
    shared = ours.keys() & theirs.keys()
    pairs: dict[str, list[Any]] = {"weights": [(ours[key], theirs[key]) for key in shared]}
    models: Any = (one, other)
    autoencoders = [getattr(m, "autoencoder", m) for m in models]
    if hasattr(autoencoders[0], "encode"):
        image = _fixed_image(autoencoders[0])
        latents = [_latents(autoencoder, image) for autoencoder in autoencoders]
        pairs["latents"] = list(zip(*latents, strict=True))
        pairs["images"] = [tuple(a.decode(latents[0][0]) for a in autoencoders)]
    denoisers = [getattr(m, "denoiser", m) for m in models]
    if hasattr(denoisers[0], "context_dim"):
        pairs["predictions"] = [tuple(_prediction(denoiser) for denoiser in denoisers)]
    return {
        name: float(torch.tensor([_difference(*pair) for pair in found]).max()) if found else 0.0
        for name, found in pairs.items()
    }


def _comparable(model: nn.Module) -> dict[str, Tensor]:
    """Weights with queries, keys and values of all attention in the same order."""
    state = {k: v for k, v in model.state_dict().items() if not is_training_only(k)}
    for name, module in model.named_modules():
        if getattr(module, "use_new_attention_order", False):
            for key in (f"{name}.qkv.weight", f"{name}.qkv.bias"):
                key = key.removeprefix(".")
                apart = state[key].unflatten(0, (3, module.num_heads, -1))
                state[key] = apart.transpose(0, 1).flatten(0, 2)
    return state


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
        _refuse_other_groups(_node(config), "model")
        # The original code samples with the averaged copy; without one it would be the initial one.
        names = [key for key, _ in model.denoiser.named_parameters(prefix="denoiser")]
        shadow = {key: weights[key] for key in names}
        twice = any(isinstance(part, LatentImage) for part in list(model.conditioners)[:1])
        schedule = dict(model.schedule.named_buffers())
        state = to_compvis(weights, schedule, shadow, first_stage_twice=twice)
    else:
        tree = OmegaConf.create({"model": to_compvis_first_stage(_node(config))})
        save_config(tree, folder / "config.yaml")
        state = to_compvis(weights)
    save({"state_dict": state}, folder / "model.ckpt")


def write_network(
    weights: Mapping[str, Tensor], node: Any, folder: Path, scaling_factor: float
) -> None:
    """Write a UNet or an autoencoder.

    Args:
        weights: native state dict.
        node: what it was built from.
        folder: where the two files go.
        scaling_factor: factor of the latents of an autoencoder.

    Raises:
        ConfigError: diffusers has no such network.
    """
    if isinstance(node, Mapping) and node.get("target") == UNET_NAME:
        _write_json(unet_to_config(node), folder / "config.json")
        save(unet_to_diffusers(weights, read_unet(node)), folder / diffusers.WEIGHTS)
        return
    _write_json(diffusers.to_config(node, scaling_factor), folder / "config.json")
    save(to_diffusers(weights), folder / diffusers.WEIGHTS)


def write_pipeline(model: Any, weights: Mapping[str, Tensor], node: Any, folder: Path) -> None:
    """Write a whole model as a pipeline, its index last.

    Args:
        model: a ``LatentDiffusion``.
        weights: its state dict, as it is to be stored.
        node: what it was built from.
        folder: where the folders of the parts go.

    Raises:
        ConfigError: diffusers has no pipeline for it.
    """
    clip = model.conditioners[0] if _has_clip(node) else None
    text = None if clip is None else clip.transformer.text_model.config.to_dict()
    configs = pipeline_to_configs(node, float(model.scale_factor), text)
    parts = node["params"]
    unet = unet_to_diffusers(_below("denoiser.", weights), read_unet(parts["denoiser"]))
    save(unet, folder / "unet" / diffusers.WEIGHTS)
    vae = to_diffusers(_below("autoencoder.", weights))
    save(vae, folder / ("vqvae" if clip is None else "vae") / diffusers.WEIGHTS)
    if clip is not None:
        layers = configs["text_encoder"]["num_hidden_layers"]
        encoder = _first_layers(_below(_TEXT, weights), layers)
        save(encoder, folder / "text_encoder" / TEXT_WEIGHTS[0])
        _write_words(folder / "tokenizer")
    for part in sorted(configs, reverse=True):
        _write_json(configs[part], folder / part / SETTINGS[part])


def _has_clip(node: Any) -> bool:
    conditioners = node["params"].get("conditioners") or []
    return bool(conditioners) and conditioners[0].get("target") == CLIP_NAME


def _below(prefix: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}


def _first_layers(weights: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """Weights of a text encoder without the layers from ``count`` on."""
    return {
        key: value
        for key, value in weights.items()
        if not key.startswith(_LAYER) or int(key.removeprefix(_LAYER).split(".")[0]) < count
    }


def _write_words(folder: Path) -> None:
    """``vocab.json`` and ``merges.txt`` of CLIP's byte pairs."""
    words = clip_tokenizer._byte_pairs(clip_tokenizer._vocabulary())
    pairs = json.loads(words.to_str())["model"]
    special = {"<|startoftext|>": VOCAB_SIZE - 2, "<|endoftext|>": VOCAB_SIZE - 1}
    text = json.dumps(pairs["vocab"] | special, ensure_ascii=False)
    write_text(folder / "vocab.json", text)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in pairs["merges"]), ""]
    write_text(folder / "merges.txt", "\n".join(lines))


def _write_json(content: Mapping[str, Any], file: Path) -> None:
    write_text(file, json.dumps(content, indent=2) + "\n")


def _refuse_other_groups(node: Any, path: str) -> None:
    """The original code always normalises in 32 groups, which no weight tells."""
    if not isinstance(node, Mapping):
        return
    for key, value in node.items():
        if key == "norm_groups" and value != GROUPS:
            raise ConfigError(f"{path}.{key}: the original code has {GROUPS} only, not {value}")
        _refuse_other_groups(value, f"{path}.{key}")


def _node(config: DictConfig) -> Any:
    return OmegaConf.to_container(config.model, resolve=True)  # the data may be absent


def _fixed_image(autoencoder: Any) -> Tensor:
    """Noise (1, C, side, side) in [-1, 1]."""
    side = max(_SIDE, 2 * autoencoder.downsampling_factor)
    generator = torch.Generator().manual_seed(0)
    return torch.rand(1, autoencoder.image_channels, side, side, generator=generator) * 2 - 1


def _latents(autoencoder: Any, image: Tensor) -> tuple[Tensor, Tensor]:
    """Mode and a sample of the latents."""
    posterior = autoencoder.encode(image)
    return posterior.mode(), posterior.sample(torch.Generator().manual_seed(0))


def _prediction(denoiser: Any) -> Tensor:
    """What a UNet predicts for a fixed input."""
    generator = torch.Generator().manual_seed(0)
    side = 2 * denoiser.downsampling_factor
    x = torch.randn(1, denoiser.in_channels, side, side, generator=generator)
    conditions: dict[str, Tensor] = {}
    if denoiser.context_dim is not None:
        conditions["context"] = torch.randn(1, 3, denoiser.context_dim, generator=generator)
    if denoiser.num_classes is not None:
        conditions["y"] = torch.zeros(1, dtype=torch.int64)
    return denoiser(x, torch.tensor([7]), **conditions)


def _difference(one: Tensor, other: Tensor) -> float:
    return float((one.double() - other.double()).abs().max()) if one.numel() else 0.0
