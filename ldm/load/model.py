"""A model on disk, ready to use: where its description and its weights lie, and what they build.

``locate`` looks once at a run folder, a published or exported one, a folder of diffusers, a config
or a file with weights; the ``Source`` that it returns knows config, files, weights and the built
model. ``load_model`` is the short way. A config names another model by ``ldm.load.pretrained``, and
``inline_pretrained`` replaces such nodes by an architecture where the weights come from elsewhere.
"""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from ldm.checkpoint import SUFFIXES, LoadedCheckpoint, fitting_state, load_weights, read_state
from ldm.config import instantiate, load_config
from ldm.config.paths import one_line
from ldm.config.trust import (
    builds_foreign,
    is_foreign,
    lies_beside_weights,
    mark_foreign,
    refuse_foreign,
)
from ldm.errors import CheckpointError, ConfigError
from ldm.files import file_sha256, shown
from ldm.load.bounds import TooLargeError, bounded
from ldm.load.diffusers import AUTOENCODERS, Network, Pipeline, as_foreign, find

logger = logging.getLogger(__name__)

PRETRAINED = "ldm.load.pretrained"
RUN = ("last", "best")
EXPORTED = ("model.safetensors", "model.ckpt")
"""Weights in a folder that is no run: what this library exports, and the published ones."""


@dataclass(frozen=True)
class Source:
    """A model on disk. Its description is read when it is first needed, and kept.

    Attributes:
        place: a config file, or a folder that holds ``config.yaml``, diffusers' ``config.json`` or
            a pipeline of diffusers; or a config.
        checkpoint: file with the weights, or ``last`` or ``best`` of a run; None: the obvious one.
        trust: build whatever a config names that lies beside weights.
        check: compare files with weights with their checksums, see ``ldm.checkpoint.read_state``.
    """

    place: Path | DictConfig
    checkpoint: str | Path | None = None
    trust: bool = False
    check: bool = True

    def config(self) -> DictConfig:
        """The configuration, whose ``model`` describes the model; not to be changed.

        That of an autoencoder of diffusers also has the ``scale_factor`` of its latents. One that
        lies beside weights is marked, unless it is trusted: see ``ldm.config.trust``.

        Raises:
            ConfigError: there is none, or it cannot be used.
        """
        return self._config

    def model(self, ema: bool = True, device: torch.device | str = "cpu") -> nn.Module:
        """The model with its weights, in eval mode; see ``load_model``."""
        config = self.config()
        if isinstance(self.place, DictConfig):
            file = self.weights_file()
            model = _build(config, self.trust)
            weights = read_state(file, self.check)
        else:
            refuse_foreign(_model_node(config))
            weights = self.read()  # before memory is spent on what the description claims
            if is_foreign(config):
                _check_fit(config, weights, ema)
            model = _build(config, self.trust)
        load_weights(model, weights, ema)
        self._memory.update(weights.metadata)
        return model.eval().to(device).to(memory_format=torch.channels_last)  # the faster layout

    def weights_file(self) -> Path:
        """The file with the weights; given ones are not checked.

        Raises:
            CheckpointError: there is none.
        """
        if isinstance(self.place, DictConfig) or not self.place.is_dir():
            return _given_file(self.checkpoint)
        if self.checkpoint is not None and str(self.checkpoint) not in RUN:
            return Path(self.checkpoint)
        if self._diffusers is not None:
            return self._diffusers.weights_file(self.checkpoint)
        names = RUN if self.checkpoint is None else (str(self.checkpoint),)
        files = [self.place / "checkpoints" / f"{name}.ckpt" for name in names]
        files += [self.place / name for name in EXPORTED if self.checkpoint is None]
        for file in files:
            if file.exists():
                return file
        there = sorted(file.name for file in (self.place / "checkpoints").glob("*.ckpt"))
        held = f" It has {', '.join(there)}: name one as checkpoint" if there else ""
        raise CheckpointError(
            f"{shown(self.place)} has no checkpoints/{names[0]}.ckpt; has it been trained?{held}"
        )

    def files(self) -> list[Path]:
        """All files with weights that ``read`` reads, ``weights_file`` first.

        Raises:
            CheckpointError: one of them is missing.
        """
        if isinstance(self._diffusers, Pipeline) and self.checkpoint is None:
            return self._diffusers.weights_files()
        return [self.weights_file()]

    def read(self) -> LoadedCheckpoint:
        """The weights, complete.

        Raises:
            CheckpointError: they are missing or damaged, or of another diffusers model than the
                ``config.json`` beside them describes.
        """
        found, file = self._diffusers, self.weights_file()
        if self._instead(file):
            logger.warning("%s: %s", shown(file), self._instead(file))
        return read_state(file, self.check) if found is None else found.read(file, self.check)

    def used(self) -> str:
        """Which file has the weights, for the user; after ``model`` also of which step they are."""
        file = self.weights_file()
        step = self._memory.get("global_step")
        about = [*([] if step is None else [f"step {step}"]), *filter(None, [self._instead(file)])]
        return shown(file) + (f" ({', '.join(about)})" if about else "")

    def _instead(self, file: Path) -> str:
        """What there is to say of weights that are not the obvious ones of a run."""
        chosen = self.checkpoint is None and file.parent.name == "checkpoints"
        best = chosen and file.name == f"{RUN[1]}.ckpt"
        return "of the lowest validation loss: there is no last.ckpt" if best else ""

    @functools.cached_property
    def _memory(self) -> dict[str, Any]:
        """What was met when the weights were read."""
        return {}

    @functools.cached_property
    def _config(self) -> DictConfig:
        place = self.place
        if isinstance(place, DictConfig):
            return place
        if not place.exists():
            raise ConfigError(
                f"{place}: no such run folder or config; train it first, or correct the path"
            )
        if place.is_file():
            config = load_config(place, complete=False)  # a model needs no data
            foreign = builds_foreign() or lies_beside_weights(place, self.checkpoint)
            return mark_foreign(config, place, self.trust) if foreign else config
        if self._diffusers is not None:
            return as_foreign(self._diffusers.config(), place / "config.json")
        if not (place / "config.yaml").exists():
            raise ConfigError(
                f"{place}: not a run folder, it has no config.yaml; nor one of diffusers, it "
                "has no config.json"
            )
        file = place / "config.yaml"
        return mark_foreign(load_config(file, complete=False), file, self.trust)

    @functools.cached_property
    def _diffusers(self) -> Network | Pipeline | None:
        """What of diffusers is in this place, if it is no folder of this library."""
        if isinstance(self.place, DictConfig) or (self.place / "config.yaml").exists():
            return None
        return find(self.place)


def locate(
    source: str | Path | DictConfig,
    checkpoint: str | Path | None = None,
    trust: bool = False,
    check: bool = True,
) -> Source:
    """A run folder, a published or exported one, diffusers', a config file; or weights in a folder.

    Args:
        source: the folder or file; or a config, as read.
        checkpoint: the weights; None if ``source`` says enough.
        trust: as for ``load_model``.
        check: as for ``load_model``.
    """
    if isinstance(source, DictConfig):
        return Source(source, checkpoint, trust, check)
    path = Path(source)
    if checkpoint is not None or path.suffix not in SUFFIXES or path.is_dir():
        return Source(path, checkpoint, trust, check)
    for folder in (path.parent, path.parent.parent):
        if any((folder / name).exists() for name in ("config.yaml", "config.json")):
            return Source(folder, path, trust, check)
    if not path.exists():
        raise CheckpointError(f"{path}: no such checkpoint file")
    raise ConfigError(f"{path}: no config.yaml beside it; give its config, and it as checkpoint")


def load_model(
    source: str | Path | DictConfig,
    checkpoint: str | Path | None = None,
    ema: bool = True,
    device: torch.device | str = "cpu",
    trust: bool = False,
    check: bool = True,
) -> nn.Module:
    """Build a model, load its weights and set it to eval mode.

    Files with weights cannot run anything. A config names what is to be called: one that lies
    beside weights only parts of this library, unless it is trusted (docs/security.md).

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
        trust: build whatever the config of a folder names, as if it were a script of yours.
        check: compare files with weights with their checksums, a second for several GB.

    Returns:
        A ``LatentDiffusion``, an autoencoder or a UNet, whatever ``model`` describes.

    Raises:
        UntrustedError: the config names what is no part of this library.
        ConfigError: the config cannot be built.
        CheckpointError: the checkpoint is missing, damaged or belongs to another config.
    """
    return locate(source, checkpoint, trust, check).model(ema, device)


def run_config(run: str | Path, trust: bool = False) -> DictConfig:
    """The resolved config of a run folder, or the description of another source of a model.

    Args:
        run: as ``source`` of ``load_model``.
        trust: let ``instantiate`` build whatever it names, see ``load_model``.

    Raises:
        ConfigError: it is none.
    """
    return locate(run, trust=trust).config()


def pretrained(
    path: str | Path | nn.Module,
    checkpoint: str | Path | None = None,
    ema: bool = True,
    part: str | None = None,
    trust: bool = False,
    check: bool = True,
) -> nn.Module:
    """A trained network as a node of a config, e.g. the first stage of a latent diffusion model.

    Args:
        path: as ``source`` of ``load_model``, but a pipeline of diffusers stands for its first
            stage; or a network (a node that builds one), whose weights are then read from
            ``checkpoint``.
        checkpoint: as for ``load_model``.
        ema: as for ``load_model``.
        part: name of the submodule of a given network that takes the weights; None: all of it.
        trust: as for ``load_model``; a config that lies beside weights cannot say it.
        check: as for ``load_model``.
    """
    if not isinstance(path, nn.Module):
        if part is not None:
            raise ConfigError(f"part={part!r} needs a network as path, got {str(path)!r}")
        return _first_stage(path, checkpoint, trust, check).model(ema)
    weights = read_state(_given_file(checkpoint), check)
    load_weights(path.get_submodule(part or ""), weights, ema)
    return path


def inline_pretrained(config: DictConfig, trust: bool = False) -> DictConfig:
    """The config with every ``ldm.load.pretrained`` node replaced by its architecture.

    A run that saves the result needs nothing but its own checkpoint, which holds all weights.
    Interpolations are kept.

    Args:
        config: it is not changed.
        trust: as for ``load_model``, for all such nodes; each may also say it for itself.

    Raises:
        UntrustedError: a folder's config, which is about to become a part of this one, names what
            is no part of this library.
    """
    result = copy.deepcopy(config)
    for parent, key in list(_pretrained_nodes(result)):
        parent[key] = _architecture(parent[key].params, trust)
    return result


def trust_pretrained(config: DictConfig) -> DictConfig:
    """The config with ``trust: true`` in every ``ldm.load.pretrained`` node that names a folder."""
    result = copy.deepcopy(config)
    for parent, key in list(_pretrained_nodes(result)):
        if not isinstance(parent[key].params.path, DictConfig):
            parent[key].params.trust = True
    return result


def pretrained_checkpoints(config: DictConfig) -> dict[str, str]:
    """SHA-256 of every checkpoint file that ``ldm.load.pretrained`` nodes will read, by its path.

    Raises:
        CheckpointError: one of them is missing.
    """
    files = []
    for parent, key in _pretrained_nodes(config):
        params = parent[key].params
        checkpoint = params.get("checkpoint")
        given = isinstance(params.path, DictConfig)
        source = None if given else _first_stage(params.path, checkpoint)
        files.append(_given_file(checkpoint) if source is None else source.weights_file())
    return {str(file): file_sha256(file) for file in files}


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
            _check_pretrained(child)
            yield node, key


def _check_pretrained(node: DictConfig) -> None:
    place = f"{node._get_full_key('')}.params"
    params = node.get("params") or {}
    if not isinstance(params, (dict, DictConfig)):
        raise ConfigError(f"{place}: expected a mapping, got {params!r}")
    if "path" not in params:
        raise ConfigError(f"{place}: missing key path")
    if not isinstance(params["path"], (str, Path, DictConfig)):
        raise ConfigError(f"{place}.path: expected text or a node, got {params['path']!r}")


def _architecture(params: DictConfig, trust: bool) -> Any:
    """What stands in place of a pretrained node: the node it was given, or that of its run."""
    if isinstance(params.path, DictConfig):
        return OmegaConf.to_container(params)["path"]  # type: ignore[index, call-overload]
    trust = trust or (params.get("trust") is True and not is_foreign(params))
    config = _first_stage(params.path, params.get("checkpoint"), trust).config()
    if "model" not in config:
        raise ConfigError(f"{params.path}: model: missing; it describes no model")
    refuse_foreign(config.model)
    return OmegaConf.to_container(inline_pretrained(config, trust).model, resolve=True)


def _first_stage(
    source: str | Path, checkpoint: str | Path | None, trust: bool = False, check: bool = True
) -> Source:
    """What is at ``source``; a pipeline of diffusers stands for its autoencoder."""
    path = Path(source)
    if not (path / "config.yaml").exists() and isinstance(find(path), Pipeline):
        parts = [path / name for name in AUTOENCODERS if (path / name).is_dir()]
        path = parts[0] if parts else path
    return locate(path, checkpoint, trust, check)


def _given_file(checkpoint: str | Path | None) -> Path:
    """The file that goes with a config, which by itself says nothing about weights."""
    if checkpoint is None:
        raise CheckpointError("a config alone has no weights; give a checkpoint file")
    return Path(checkpoint)


def _model_node(config: DictConfig) -> Any:
    if "model" not in config:
        raise ConfigError("model: missing; the config describes no model")
    try:
        return config.model
    except OmegaConfBaseException as error:
        raise ConfigError(f"model: {one_line(error)}") from error


def _check_fit(config: DictConfig, weights: LoadedCheckpoint, ema: bool) -> None:
    """Refuse a description of another, perhaps much larger, model before it takes memory."""
    try:
        with torch.device("meta"), bounded():
            model = _build(config, False)
        fitting_state(model, weights, ema)
    except TooLargeError as error:
        raise TooLargeError(f"the config of {shown(weights.path)}: {error}") from None
    except (RuntimeError, ConfigError):  # what cannot be built, or compared, without its values
        return


def _build(config: DictConfig, trust: bool) -> nn.Module:
    model = instantiate(_model_node(inline_pretrained(config, trust)), "model")
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model: builds a {type(model).__name__}, not a network")
    return model
