"""Where the description of a model and its weights lie: runs, published folders, diffusers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from ldm.checkpoint import SUFFIXES, LoadedCheckpoint, read_state
from ldm.config import load_config
from ldm.errors import CheckpointError, ConfigError
from ldm.load.diffusers import AUTOENCODERS, Network, Pipeline, find

RUN = ("last", "best")
EXPORTED = ("model.safetensors", "model.ckpt")
"""Weights in a folder that is no run: what this library exports, and the published ones."""


@dataclass(frozen=True)
class Source:
    """A model on disk.

    Attributes:
        place: a config file, or a folder that holds ``config.yaml``, diffusers' ``config.json`` or
            a pipeline of diffusers.
        checkpoint: file with the weights, or ``last`` or ``best`` of a run; None: the obvious one.
    """

    place: Path
    checkpoint: str | Path | None = None

    def config(self) -> DictConfig:
        """The configuration, whose ``model`` describes the model.

        That of an autoencoder of diffusers also has the ``scale_factor`` of its latents.

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
            return OmegaConf.create(self._diffusers.config())
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
            return self._diffusers.weights_file(self.checkpoint)
        names = RUN if self.checkpoint is None else (str(self.checkpoint),)
        files = [self.place / "checkpoints" / f"{name}.ckpt" for name in names]
        files += [self.place / name for name in EXPORTED if self.checkpoint is None]
        for file in files:
            if file.exists():
                return file
        raise CheckpointError(
            f"{self.place} has no checkpoints/{names[0]}.ckpt; has it been trained?"
        )

    def files(self) -> list[Path]:
        """All files with weights that ``read`` reads.

        Raises:
            CheckpointError: one of them is missing.
        """
        given = self.checkpoint is not None
        if isinstance(self._diffusers, Pipeline) and not given:
            return self._diffusers.weights_files()
        return [self.weights_file()]

    def read(self) -> LoadedCheckpoint:
        """The weights, complete.

        Raises:
            CheckpointError: they are missing or damaged, or of another diffusers model than the
                ``config.json`` beside them describes.
        """
        found, file = self._diffusers, self.weights_file()
        return read_state(file) if found is None else found.read(file)

    @property
    def _diffusers(self) -> Network | Pipeline | None:
        """What of diffusers is in this place, if it is no folder of this library."""
        if (self.place / "config.yaml").exists():
            return None
        return find(self.place)


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


def first_stage_of(source: str | Path) -> Path:
    """``source``, or of a pipeline of diffusers the folder of its autoencoder."""
    path = Path(source)
    if not (path / "config.yaml").exists() and isinstance(find(path), Pipeline):
        parts = [path / name for name in AUTOENCODERS if (path / name).is_dir()]
        return parts[0] if parts else path
    return path


def given_file(checkpoint: str | Path | None) -> Path:
    """The file that goes with a config, which by itself says nothing about weights.

    Raises:
        CheckpointError: none was given.
    """
    if checkpoint is None:
        raise CheckpointError("a config alone has no weights; give a checkpoint file")
    return Path(checkpoint)
