"""Ready models from run folders, configs, checkpoints and diffusers, without Lightning."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

from ldm.checkpoint import file_sha256, load_weights, read_state
from ldm.config import instantiate
from ldm.errors import ConfigError
from ldm.load.source import first_stage_of, given_file, locate

PRETRAINED = "ldm.load.pretrained"


def load_model(
    source: str | Path | DictConfig,
    checkpoint: str | Path | None = None,
    ema: bool = True,
    device: torch.device | str = "cpu",
) -> nn.Module:
    """Build a model, load its weights and set it to eval mode.

    A ``config.yaml`` names what is to be called, in a folder as well: trust it like a script. Files
    with weights cannot run anything.

    Args:
        source: a folder (of a run; with ``config.yaml`` and ``model.safetensors`` or
            ``model.ckpt``; of a pipeline, an autoencoder or a UNet of diffusers, or with an
            autoencoder in ``vae/`` or ``vqvae/``), a file with weights in one, a config file, or a
            config with ``model``.
        checkpoint: a file with weights of this library, of the original code (also of
            taming-transformers and Stable Diffusion, of which an autoencoder takes its part) or of
            diffusers; inside a run folder also ``last`` (the default) or ``best``.
        ema: use averaged weights where the checkpoint has them.
        device: where the model goes.

    Returns:
        A ``LatentDiffusion``, an autoencoder or a UNet, whatever ``model`` describes.

    Raises:
        ConfigError: the config cannot be built.
        CheckpointError: the checkpoint is missing, damaged or belongs to another config.
    """
    if isinstance(source, DictConfig):
        file = given_file(checkpoint)
        model = _build(source)
        weights = read_state(file)
    else:
        found = locate(source, checkpoint)
        config = found.config()
        weights = found.read()
        model = _build(config)
    load_weights(model, weights, ema)
    return model.eval().to(device).to(memory_format=torch.channels_last)  # the faster layout


def run_config(run: str | Path) -> DictConfig:
    """The resolved config of a run folder, or the description of another source of a model.

    Raises:
        ConfigError: it is none.
    """
    return locate(run).config()


def run_checkpoint(run: str | Path, checkpoint: str | Path | None = None) -> Path:
    """The file that ``load_model`` would read for the same arguments.

    Raises:
        CheckpointError: there is none.
    """
    return locate(run, checkpoint).weights_file()


def pretrained(
    path: str | Path | nn.Module,
    checkpoint: str | Path | None = None,
    ema: bool = True,
    part: str | None = None,
) -> nn.Module:
    """A trained network as a node of a config, e.g. the first stage of a latent diffusion model.

    Args:
        path: as ``source`` of ``load_model``, but a pipeline of diffusers stands for its first
            stage; or a network (a node that builds one), whose weights are then read from
            ``checkpoint``.
        checkpoint: as for ``load_model``.
        ema: as for ``load_model``.
        part: name of the submodule of a given network that takes the weights; None: all of it.
    """
    if not isinstance(path, nn.Module):
        if part is not None:
            raise ConfigError(f"part={part!r} needs a network as path, got {str(path)!r}")
        return load_model(first_stage_of(path), checkpoint, ema)
    target = path.get_submodule(part or "")
    load_weights(target, read_state(given_file(checkpoint)), ema)
    return path


def inline_pretrained(config: DictConfig) -> DictConfig:
    """The config with every ``ldm.load.pretrained`` node replaced by its architecture.

    A run that saves the result needs nothing but its own checkpoint, which holds all weights.
    Interpolations are kept.
    """
    result = copy.deepcopy(config)
    for parent, key in list(_pretrained_nodes(result)):
        parent[key] = _architecture(parent, key)
    return result


def pretrained_checkpoints(config: DictConfig) -> dict[str, str]:
    """SHA-256 of every checkpoint file that ``ldm.load.pretrained`` nodes will read, by its path.

    Raises:
        CheckpointError: one of them is missing.
    """
    digests = {}
    for parent, key in _pretrained_nodes(config):
        params = parent[key].params
        checkpoint = params.get("checkpoint")
        if _is_node(params, "path"):
            file = given_file(checkpoint)
        else:
            file = locate(first_stage_of(params.path), checkpoint).weights_file()
        digests[str(file)] = file_sha256(file)
    return digests


def _pretrained_nodes(node: Any) -> Iterator[tuple[Any, Any]]:
    """(parent, key) of all ``ldm.load.pretrained`` nodes, innermost first."""
    if isinstance(node, DictConfig):
        keys: list[Any] = list(node)
    elif isinstance(node, ListConfig):
        keys = list(range(len(node)))
    else:
        return
    for key in keys:
        if OmegaConf.is_interpolation(node, key) or OmegaConf.is_missing(node, key):
            continue
        child = node[key]
        yield from _pretrained_nodes(child)
        if isinstance(child, DictConfig) and child.get("target") == PRETRAINED:
            if "path" not in (child.get("params") or {}):
                raise ConfigError(f"{child._get_full_key('')}.params: missing key path")
            yield node, key


def _is_node(params: DictConfig, key: str) -> bool:
    return isinstance(params[key], DictConfig)


def _architecture(parent: Any, key: Any) -> Any:
    """What stands in place of a pretrained node: the node it was given, or that of its run."""
    params = parent[key].params
    if _is_node(params, "path"):
        return OmegaConf.to_container(params)["path"]  # type: ignore[index, call-overload]
    config = locate(first_stage_of(params.path), params.get("checkpoint")).config()
    if "model" not in config:
        raise ConfigError(f"{params.path}: model: missing; it describes no model")
    return OmegaConf.to_container(inline_pretrained(config).model, resolve=True)


def _build(config: DictConfig) -> nn.Module:
    if "model" not in config:
        raise ConfigError("model: missing; the config describes no model")
    model = instantiate(inline_pretrained(config).model, "model")
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model: builds a {type(model).__name__}, not a network")
    return model
