"""Folders of diffusers: one network, or a pipeline of several."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from ldm.checkpoint import SUFFIXES, LoadedCheckpoint, fitting_state, read_state
from ldm.compat.diffusers import autoencoder as diffusers
from ldm.compat.diffusers.autoencoder import from_diffusers, identity_convolution
from ldm.compat.diffusers.pipeline import pipeline_from_configs
from ldm.compat.diffusers.unet import MODELS as UNETS
from ldm.compat.diffusers.unet import unet_from_config
from ldm.compat.diffusers.unet_weights import unet_from_diffusers
from ldm.compat.native import read_unet
from ldm.config import instantiate
from ldm.config.paths import failure, one_line
from ldm.config.trust import mark_foreign
from ldm.errors import CheckpointError, ConfigError
from ldm.files import read_json, shown

WEIGHTS = (diffusers.WEIGHTS, "diffusion_pytorch_model.bin")
TEXT_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
AUTOENCODERS = ("vae", "vqvae")
SETTINGS = {
    "": "model_index.json",
    "unet": "config.json",
    "vae": "config.json",
    "vqvae": "config.json",
    "text_encoder": "config.json",
    "scheduler": "scheduler_config.json",
    "tokenizer": "tokenizer_config.json",
}
"""Files with the settings of the parts of a pipeline, by folder."""
ATTENTION_ORDER, BY_HEAD = "attention_order", "by head"
"""Entry of the metadata of a UNet: how queries, keys and values were put together."""
_TEXT = "conditioners.0.transformer."
_T = TypeVar("_T")


@dataclass(frozen=True)
class Network:
    """A folder with ``config.json`` and the weights of an autoencoder or a UNet."""

    path: Path

    def config(self) -> dict[str, Any]:
        """``model``, and for an autoencoder the ``scale_factor`` of its latents.

        Raises:
            ConfigError: it has no counterpart here.
        """
        if self._is_unet:
            return {"model": _in(self._file, lambda: unet_from_config(self._settings))}
        node = _in(self._file, lambda: diffusers.from_config(self._settings))
        factor = _in(self._file, lambda: diffusers.scale_factor(self._settings))
        return {"model": node, "scale_factor": factor}

    def weights_file(self, checkpoint: str | Path | None = None) -> Path:
        """The file with the weights.

        Raises:
            CheckpointError: there is none.
        """
        return first_existing(self.path, WEIGHTS, checkpoint)

    def read(self, file: Path, check: bool = True) -> LoadedCheckpoint:
        """The weights in ``file`` under native names, complete.

        Raises:
            CheckpointError: missing, damaged, or not those that ``config.json`` describes.
        """
        checkpoint, node = read_state(file, check), self.config()["model"]
        described = as_foreign({"model": node}, self._file).model
        with torch.device("meta"):  # before memory is spent on sizes that a file merely claims
            fitting_state(instantiate(described), self._native(checkpoint, node))
        return self._native(checkpoint, node)

    def _native(self, checkpoint: LoadedCheckpoint, node: Any) -> LoadedCheckpoint:
        """The weights under native names, an identity where diffusers has left out a layer."""
        metadata = checkpoint.metadata
        if self._is_unet:
            values = read_unet(node)
            state = unet_from_diffusers(checkpoint.state_dict, values)
            if not values["use_spatial_transformer"]:
                metadata = metadata | {ATTENTION_ORDER: BY_HEAD}
        else:
            state = from_diffusers(checkpoint.state_dict)
            for name, channels in diffusers.absent_convolutions(self._settings).items():
                state = identity_convolution(name, channels) | state
        return dataclasses.replace(checkpoint, state_dict=state, format="native", metadata=metadata)

    @property
    def _file(self) -> Path:
        return self.path / "config.json"

    @functools.cached_property
    def _settings(self) -> Any:
        return read_json(self._file, ConfigError)

    @property
    def _is_unet(self) -> bool:
        settings = self._settings
        return isinstance(settings, dict) and str(settings.get("_class_name")) in UNETS


@dataclass(frozen=True)
class Pipeline:
    """A folder with the parts of a whole model in folders of their own."""

    path: Path

    def config(self) -> dict[str, Any]:
        """``model``, whole.

        Raises:
            ConfigError: it has no counterpart here.
        """
        files = {part: self.path / part / name for part, name in SETTINGS.items()}
        settings = {
            part: read_json(file, ConfigError, table=True)
            for part, file in files.items()
            if file.exists()
        }
        return {"model": _in(self.path, lambda: pipeline_from_configs(settings))}

    def weights_file(self, checkpoint: str | Path | None = None) -> Path:
        """The file with the weights of the UNet, the part that makes it a diffusion model.

        Raises:
            CheckpointError: there is none.
        """
        return Network(self.path / "unet").weights_file(checkpoint)

    def weights_files(self) -> list[Path]:
        """The files with the weights of all parts.

        Raises:
            CheckpointError: one of them is missing.
        """
        files = [self.weights_file(), Network(self._autoencoder).weights_file()]
        text = self.path / "text_encoder"
        return [*files, first_existing(text, TEXT_WEIGHTS)] if text.is_dir() else files

    def read(self, file: Path, check: bool = True) -> LoadedCheckpoint:
        """The weights of all parts under native names; those of the UNet are in ``file``.

        Raises:
            CheckpointError: missing, damaged, or not those that the settings describe.
        """
        autoencoder = Network(self._autoencoder)
        unet = Network(self.path / "unet").read(file, check)
        first = autoencoder.read(autoencoder.weights_file(), check)
        state = {f"denoiser.{key}": value for key, value in unet.state_dict.items()}
        state |= {f"autoencoder.{key}": value for key, value in first.state_dict.items()}
        state["scale_factor"] = torch.tensor(autoencoder.config()["scale_factor"])
        if (self.path / "text_encoder").is_dir():
            state |= _text_weights(self.weights_files()[-1], check)
        return dataclasses.replace(unet, path=self.path, state_dict=state)

    @property
    def _autoencoder(self) -> Path:
        return self.path / ("vae" if (self.path / "vae").is_dir() else "vqvae")


def find(place: Path) -> Network | Pipeline | None:
    """What of diffusers a folder holds, if anything.

    Raises:
        ConfigError: two autoencoders, and nothing that chooses between them.
    """
    if not place.is_dir():
        return None
    if (place / "config.json").exists():
        return Network(place)
    parts = [name for name in AUTOENCODERS if (place / name / "config.json").exists()]
    if (place / "unet" / "config.json").exists() and (place / SETTINGS[""]).exists():
        return Pipeline(place)
    if len(parts) > 1:
        raise ConfigError(f"{place} holds {' and '.join(parts)}; name one of them")
    return Network(place / parts[0]) if parts else None


def first_existing(
    folder: Path, names: tuple[str, ...], checkpoint: str | Path | None = None
) -> Path:
    """The first of several files in a folder.

    Raises:
        CheckpointError: there is none, or a checkpoint was asked for as if it were a run.
    """
    if checkpoint is not None:
        raise CheckpointError(f"{folder} is a folder of diffusers and has no {str(checkpoint)!r}")
    for name in names:
        if (folder / name).exists():
            return folder / name
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    others = [file.name for file in files if file.suffix in SUFFIXES]
    hint = f"; give one of these as checkpoint: {', '.join(others)}" if others else ""
    raise CheckpointError(f"{folder} has no {' or '.join(names)}{hint}")


def _text_weights(file: Path, check: bool) -> dict[str, Tensor]:
    """Weights of CLIP's text encoder, which transformers 5 writes without ``text_model.``."""
    state = {}
    for key, value in read_state(file, check).state_dict.items():
        if not key.endswith("position_ids"):
            state[f"{_TEXT}text_model.{key.removeprefix('text_model.')}"] = value
    return state


def as_foreign(tree: dict[str, Any], file: Path) -> DictConfig:
    """A config made of values of ``config.json``, which may be anybody's: it is marked.

    Raises:
        ConfigError: a value is none that a config can hold, or refers to others.
    """
    try:
        return mark_foreign(OmegaConf.create(tree), file)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{shown(file)}: {one_line(error)}") from error


def _in(place: Path, make: Callable[[], _T]) -> _T:
    """What ``make`` returns; its errors name the place."""
    try:
        return make()
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error
    except Exception as error:  # values of other kinds than diffusers writes
        raise ConfigError(f"{place}: cannot be translated: {failure(error)}") from error
