"""Writing folders of diffusers: one network, or a pipeline of several."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ldm.atomic_write import write_atomically
from ldm.checkpoint import save
from ldm.compat import diffusers
from ldm.compat.diffusers_pipeline import CLIP_NAME, VOCAB_SIZE, pipeline_to_configs
from ldm.compat.diffusers_unet import unet_to_config
from ldm.compat.diffusers_unet_weights import unet_to_diffusers
from ldm.compat.diffusers_weights import to_diffusers
from ldm.compat.unet import UNET_NAME, read_unet
from ldm.conditioners import clip_tokenizer
from ldm.diffusers_folder import SETTINGS, TEXT_WEIGHTS

_TEXT = "conditioners.0.transformer."
_LAYER = "text_model.encoder.layers."


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
    write_atomically(folder / "vocab.json", lambda file: file.write(text.encode()))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in pairs["merges"]), ""]
    write_atomically(folder / "merges.txt", lambda file: file.write("\n".join(lines).encode()))


def _write_json(content: Mapping[str, Any], file: Path) -> None:
    text = json.dumps(content, indent=2) + "\n"
    write_atomically(file, lambda stream: stream.write(text.encode()))
