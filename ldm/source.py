"""Where the description of a model and its weights lie: runs, published folders, diffusers."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from ldm.checkpoint import SUFFIXES, LoadedCheckpoint, fitting_state, read_state
from ldm.compat import diffusers
from ldm.compat.diffusers_weights import identity_convolution
from ldm.config import instantiate, load_config
from ldm.errors import CheckpointError, ConfigError

RUN = ("last", "best")
EXPORTED = ("model.safetensors", "model.ckpt")
"""Weights in a folder that is no run: what this library exports, and the published ones."""
DIFFUSERS = (diffusers.WEIGHTS, "diffusion_pytorch_model.bin")
_DIFFUSERS_PARTS = ("vae", "vqvae")


@dataclass(frozen=True)
class Source:
    """A model on disk.

    Attributes:
        place: a config file, or a folder that holds ``config.yaml`` or diffusers' ``config.json``.
        checkpoint: file with the weights, or ``last`` or ``best`` of a run; None: the obvious one.
    """

    place: Path
    checkpoint: str | Path | None = None

    def config(self) -> DictConfig:
        """The configuration, whose ``model`` describes the model.

        That of diffusers also has the ``scale_factor`` of its latents.

        Raises:
            ConfigError: there is none, or it cannot be used.
        """
        if not self.place.exists():
            raise ConfigError(
                f"{self.place}: no such run folder or config; train it first, or correct the path"
            )
        if self.place.is_file():
            return load_config(self.place, complete=False)  # a model needs no data
        if self._diffusers is not None:
            config = self._diffusers_config()
            factor = diffusers.scale_factor(config)
            return OmegaConf.create(
                {"model": diffusers.from_config(config), "scale_factor": factor}
            )
        if not (self.place / "config.yaml").exists():
            raise ConfigError(
                f"{self.place}: not a run folder, it has no config.yaml; nor one of diffusers, it "
                "has no config.json"
            )
        return load_config(self.place / "config.yaml", complete=False)

    def weights_file(self) -> Path:
        """The file with the weights; given ones are not checked.

        Raises:
            CheckpointError: there is none.
        """
        if not self.place.is_dir():
            return given_file(self.checkpoint)
        if self.checkpoint is not None and str(self.checkpoint) not in RUN:
            return Path(self.checkpoint)
        if self._diffusers is not None:
            return _first_existing(self._diffusers, self.checkpoint)
        names = RUN if self.checkpoint is None else (str(self.checkpoint),)
        files = [self.place / "checkpoints" / f"{name}.ckpt" for name in names]
        files += [self.place / name for name in EXPORTED if self.checkpoint is None]
        for file in files:
            if file.exists():
                return file
        raise CheckpointError(
            f"{self.place} has no checkpoints/{names[0]}.ckpt; has it been trained?"
        )

    def read(self) -> LoadedCheckpoint:
        """The weights, complete.

        Raises:
            CheckpointError: they are missing or damaged, or of another diffusers model than the
                ``config.json`` beside them describes.
        """
        checkpoint = read_state(self.weights_file())
        if self._diffusers is None:
            return checkpoint
        config = self._diffusers_config()
        with torch.device("meta"):  # before memory is spent on sizes that a file merely claims
            model = instantiate(diffusers.from_config(config), "model")
            fitting_state(model, _completed(checkpoint, config))
        return _completed(checkpoint, config)

    @property
    def _diffusers(self) -> Path | None:
        """Folder of the autoencoder of diffusers in this place, if it holds one."""
        if not self.place.is_dir() or (self.place / "config.yaml").exists():
            return None
        if (self.place / "config.json").exists():
            return self.place
        parts = [name for name in _DIFFUSERS_PARTS if (self.place / name / "config.json").exists()]
        if len(parts) > 1:
            raise ConfigError(f"{self.place} holds {' and '.join(parts)}; name one of them")
        return self.place / parts[0] if parts else None

    def _diffusers_config(self) -> dict[str, Any]:
        """Content of ``config.json``, known to translate."""
        assert self._diffusers is not None
        file = self._diffusers / "config.json"
        config = _read_json(file)
        try:
            diffusers.from_config(config)
            diffusers.scale_factor(config)
        except ConfigError as error:
            raise ConfigError(f"{file}: {error}") from error
        assert isinstance(config, dict)
        return config


def locate(source: str | Path, checkpoint: str | Path | None = None) -> Source:
    """A run folder, a published or exported one, diffusers', a config file; or weights in a folder.

    Args:
        source: the folder or file.
        checkpoint: the weights; None if ``source`` says enough.
    """
    path = Path(source)
    if checkpoint is not None or path.suffix not in SUFFIXES:
        return Source(path, checkpoint)
    for folder in (path.parent, path.parent.parent):
        if any((folder / name).exists() for name in ("config.yaml", "config.json")):
            return Source(folder, path)
    if not path.exists():
        raise CheckpointError(f"{path}: no such checkpoint file")
    raise ConfigError(f"{path}: no config.yaml beside it; give its config, and it as checkpoint")


def given_file(checkpoint: str | Path | None) -> Path:
    """The file that goes with a config, which by itself says nothing about weights.

    Raises:
        CheckpointError: none was given.
    """
    if checkpoint is None:
        raise CheckpointError("a config alone has no weights; give a checkpoint file")
    return Path(checkpoint)


def _first_existing(folder: Path, checkpoint: str | Path | None) -> Path:
    if checkpoint is not None:
        raise CheckpointError(f"{folder} is a folder of diffusers and has no {str(checkpoint)!r}")
    for name in DIFFUSERS:
        if (folder / name).exists():
            return folder / name
    others = sorted(file.name for file in folder.iterdir() if file.suffix in SUFFIXES)
    hint = f"; give one of these as checkpoint: {', '.join(others)}" if others else ""
    raise CheckpointError(f"{folder} has no {' or '.join(DIFFUSERS)}{hint}")


def _completed(checkpoint: LoadedCheckpoint, config: Any) -> LoadedCheckpoint:
    """The weights with an identity for every convolution that diffusers can leave out."""
    state = checkpoint.state_dict
    for name, channels in diffusers.absent_convolutions(config).items():
        state = identity_convolution(name, channels) | state
    return dataclasses.replace(checkpoint, state_dict=state)


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ConfigError(f"{file}: cannot be read as JSON: {reason}") from error
