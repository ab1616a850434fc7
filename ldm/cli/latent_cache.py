"""What scripts/cache_latents.py works on: data sets and autoencoder of a stage-2 config.

The switches for mirror images in the description of a data set.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from ldm.autoencoders import base as stored
from ldm.config import instantiate, load_config
from ldm.data.latents.manifest import FILE, Manifest, Recipe
from ldm.data.latents.writer import Encoder, ItemPairs
from ldm.errors import ConfigError, UserError

FLIP = "flip"
"""Name of the parameter, a probability, of every data set and framing that mirrors images."""


def flip_probability(node: Any, path: str) -> float:
    """Probability with which the data set of a node mirrors its images.

    Args:
        node: plain mappings, lists and values.
        path: where it stands, for messages.

    Raises:
        ConfigError: parts of it have different ones.
    """
    found = sorted({float(value) for value in _flips(node)})
    if len(found) > 1:
        raise ConfigError(f"{path}: flip has several values, {found}: give one to all parts")
    return found[0] if found else 0.0


def with_flip(node: Any, value: float) -> Any:
    """A copy of a node whose data set mirrors its images with another probability.

    What belongs to an image (boxes, label maps) is mirrored with it by the data set itself. The
    other draws of an item stay as they are.
    """
    if isinstance(node, dict):
        return {key: value if _is_flip(key, v) else with_flip(v, value) for key, v in node.items()}
    if isinstance(node, list):
        return [with_flip(child, value) for child in node]
    return node


def first_seed(node: Any) -> int:
    """The seed of the draws of a data set: the first one in its node, 0 if there is none."""
    return next(_seeds(node), 0)


def _seeds(node: Any) -> Iterator[int]:
    children = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in children:
        if key == "seed" and isinstance(value, int):
            yield value
        elif isinstance(value, (dict, list)):
            yield from _seeds(value)


def _flips(node: Any) -> Iterator[float]:
    children = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in children:
        if _is_flip(key, value):
            yield value
        elif isinstance(value, (dict, list)):
            yield from _flips(value)


def _is_flip(key: Any, value: Any) -> bool:
    return key == FLIP and isinstance(value, (int, float)) and not isinstance(value, bool)


SPLITS = ("train", "validation")


@dataclass(frozen=True)
class Job:
    """What is to be cached, and how."""

    arguments: argparse.Namespace
    config: DictConfig
    recipe: Recipe
    nodes: dict[str, Any]
    flip: float
    pairs: dict[str, ItemPairs]
    encode: Encoder

    @property
    def out(self) -> Path:
        """Folder of the cache."""
        path: Path = self.arguments.out
        return path


def read_job(arguments: argparse.Namespace) -> Job:
    """Build data sets and autoencoder of a config."""
    files = [item for item in arguments.config if "=" not in item]
    overrides = [item for item in arguments.config if "=" in item]
    config = load_config(*files, overrides=overrides)
    nodes = _data_nodes(config)
    flip = flip_probability(nodes["train"], "data.params.train")
    if flip_probability(nodes["validation"], "data.params.validation") > 0:
        raise ConfigError("data.params.validation: a validation set is not mirrored: set flip=0")
    pairs = {
        name: ItemPairs(name, *_data_sets(node, name, flip if name == "train" else 0.0))
        for name, node in nodes.items()
    }
    device = torch.device(arguments.device)
    autoencoder = _autoencoder(config).eval().requires_grad_(False).to(device)
    item = pairs["train"][0][0]
    if unknown := sorted(set(arguments.without) - set(item)):
        raise ConfigError(
            f"--without {unknown[0]}: items have no such entry, but {', '.join(item)}"
        )
    entry, encode = _encoding(autoencoder, device, item["image"])
    dtype = arguments.dtype or _dtype_there(arguments.out)
    left_out = tuple(sorted({*arguments.without, *(() if arguments.with_image else ("image",))}))
    transform = {name: with_flip(node, 0.0) for name, node in nodes.items()}
    transform |= {"mirrored": flip > 0, "epochs": arguments.epochs, "left_out": list(left_out)}
    recipe = Recipe(stored.fingerprint(autoencoder.state_dict()), transform, dtype)
    encoder = Encoder(entry, encode, dtype, left_out)
    return Job(arguments, config, recipe, nodes, flip, pairs, encoder)


def _dtype_there(out: Path) -> str:
    """The type of an existing cache, fp32 for a new one."""
    return Manifest.load(out).recipe.dtype if (out / FILE).exists() else "fp32"


def _data_nodes(config: DictConfig) -> dict[str, Any]:
    nodes = {}
    for name in SPLITS:
        node = OmegaConf.select(config, f"data.params.{name}")
        if node is None:
            raise ConfigError(f"data.params.{name}: missing; a cache is made of both data sets")
        nodes[name] = OmegaConf.to_container(node, resolve=True)
        if ".CachedLatents" in str(nodes[name]):
            raise ConfigError(f"data.params.{name}: is a latent cache itself; name the images")
    return nodes


def _data_sets(node: Any, name: str, flip: float) -> tuple[Any, Any | None]:
    """A data set that mirrors nothing, and its twin that mirrors all, if it mirrors some."""
    path = f"data.params.{name}"
    plain = instantiate(with_flip(node, 0.0), path)
    return plain, instantiate(with_flip(node, 1.0), path) if flip > 0 else None


def _autoencoder(config: DictConfig) -> nn.Module:
    """The trained first stage of the model that the task of a config trains."""
    node = OmegaConf.select(config, "task.params.model")
    place = "task.params.model"
    if node is None:
        node, place = OmegaConf.select(config, "model"), "model"
    if node is None:
        raise ConfigError("model: missing; a cache needs the config of a latent diffusion model")
    part = OmegaConf.select(node, "params.autoencoder")
    if part is not None:
        found: Any = instantiate(part)
        target = str(part.get("target"))
        if target.startswith("ldm.autoencoders.") and any(True for _ in found.parameters()):
            raise ConfigError(
                f"{place}.params.autoencoder: {target} has random weights: name a trained one by "
                "ldm.load.pretrained"
            )
    else:
        found = getattr(instantiate(node, place), "autoencoder", None)
    if not isinstance(found, nn.Module) or not hasattr(found, "encode"):
        raise ConfigError(f"{place}: is no latent diffusion model, it has no autoencoder")
    return found


def _encoding(
    autoencoder: Any, device: torch.device, image: Tensor
) -> tuple[str, Callable[[Tensor], Tensor]]:
    """Name of the entry that is kept, and the function that makes it of images."""

    @torch.no_grad()
    def encode(images: Tensor) -> Tensor:
        try:
            return stored.to_entry(autoencoder.encode(images.to(device)))[1].float().cpu()
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"out of memory with {len(images)} images at once: give a smaller --batch-size"
            ) from error

    with torch.no_grad():
        channels = autoencoder.image_channels
        if len(image) != channels:
            raise UserError(
                f"images have {len(image)} channels, the autoencoder takes {channels}: give data "
                "of its kind"
            )
        name, _ = stored.to_entry(autoencoder.encode(image[None].to(device)))
    return name, encode
