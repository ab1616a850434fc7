"""Begin training from the weights of another model, and say what became of each of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ldm.checkpoint import LoadedCheckpoint, compare, read_state
from ldm.compat.compvis.weights import EMA, native_name
from ldm.errors import CheckpointError
from ldm.files import file_sha256
from ldm.load.diffusers import ATTENTION_ORDER, BY_HEAD, Network, find
from ldm.load.model import Source

_SHOWN = 10


@dataclass(frozen=True)
class InitFrom:
    """Weights to begin with.

    Args:
        path: a checkpoint file of this library, of the original code, of Stable Diffusion or of an
            autoencoder of diffusers; a run, an exported folder; a network or a pipeline of
            diffusers.
        partial: load what fits, and leave the rest as it was built.
    """

    path: str
    partial: bool = False

    def read(self) -> LoadedCheckpoint:
        """The weights, averaged ones included.

        Raises:
            CheckpointError: there are none, or they are damaged.
            ConfigError: the folder holds nothing that can be read.
        """
        source = self._source()
        return read_state(self.path) if source is None else source.read()

    def record(self) -> dict[str, Any]:
        """What a run notes about it: path, digests of all files, whether partial."""
        source = self._source()
        files = [Path(self.path)] if source is None else source.files()
        digests = sorted(file_sha256(file) for file in files)
        return {"checkpoint": self.path, "sha256": digests, "partial": self.partial}

    def _source(self) -> Source | None:
        """Where more than a file with weights says what they mean; None: they do."""
        path = Path(self.path)
        if path.is_dir():
            return Source(path)
        inside = path.is_file() and isinstance(find(path.parent), Network)
        return Source(path.parent, path) if inside else None


@dataclass(frozen=True)
class Report:
    """Names of weights by what became of them.

    Attributes:
        loaded: in the model, from the file.
        new: in the model, but not in the file: as the model was built.
        misshapen: the same, because their shape in the file (given here too) is another.
        surplus: in the file, and not in the model.
        ignored: in the file, and not meant for the model: the training objective, the noise
            schedule, other parts of a whole model.
        sizes: number of values of each weight of the model.
    """

    loaded: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)
    surplus: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    sizes: Mapping[str, int] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every weight of the model was loaded, and every one of the file used."""
        return not (self.new or self.misshapen or self.surplus)

    def lines(self, shown: int = _SHOWN) -> list[str]:
        """One line for each kind that there is: counts by part, then up to ``shown`` names."""
        values = sum(self.sizes.get(name, 0) for name in self.loaded)
        lines = [f"loaded {_counted(self.loaded)}: {values / 1e6:.3f} M values"]
        for kind, names in (
            ("new", self.new),
            ("new, of another shape in the file", self.misshapen),
            ("not used, unknown to the model", self.surplus),
            ("ignored", self.ignored),
        ):
            if names:
                more = ", ..." if len(names) > shown else ""
                lines.append(f"{kind} {_counted(names)}: {', '.join(names[:shown])}{more}")
        return lines


def initialise(model: nn.Module, checkpoint: LoadedCheckpoint, partial: bool = False) -> Report:
    """Copy the weights of a checkpoint of any format into a model that is to be trained.

    Averaged weights are preferred. Everything that the file has is taken: conditioners, the first
    stage and its scale factor too; an autoencoder or a UNet takes its part of a whole model.

    Args:
        model: a ``LatentDiffusion``, an autoencoder or a UNet; on the meta device only the report
            is made.
        checkpoint: what ``InitFrom.read`` or ``ldm.checkpoint.read_state`` returned.
        partial: load what fits. Otherwise any weight that is missing, surplus or of another shape,
            and another noise schedule, is an error.

    Raises:
        CheckpointError: the file does not fit (the model is as before), or nothing in it does.
    """
    _check_order(model, checkpoint)
    fit = compare(model, checkpoint, schedule=not partial)
    state = fit.state
    report = Report(
        loaded=list(state),
        new=fit.missing,
        misshapen=[
            f"{key} {tuple(fit.found[key].shape)} for {tuple(fit.own[key].shape)}"
            for key in fit.misshapen
        ],
        surplus=fit.unexpected,
        ignored=_ignored(checkpoint, fit.found),
        sizes={key: value.numel() for key, value in fit.own.items()},
    )
    if not report.loaded:
        raise CheckpointError(f"{checkpoint.path} has no weight of this model")
    if not (partial or report.complete):
        reasons = "; ".join(report.lines()[1:])
        raise CheckpointError(
            f"{checkpoint.path} does not fit the model: {reasons} - use a config that fits, or "
            "load what fits with --init-partial"
        )
    if not any(parameter.is_meta for parameter in model.parameters()):
        model.load_state_dict(fit.own | state)
    return report


def _ignored(checkpoint: LoadedCheckpoint, found: Mapping[str, Tensor]) -> list[str]:
    """Names in the file that have no part in the model, nor are the average of one that has."""
    if checkpoint.format == "diffusers":
        return []
    names = []
    for key in checkpoint.state_dict:
        name = native_name(key) if checkpoint.format == "compvis" else key.removeprefix("model.")
        used = name in found or name.partition(".")[2] in found
        if not used and not key.startswith(EMA):
            names.append(name)
    return names


def _check_order(model: nn.Module, checkpoint: LoadedCheckpoint) -> None:
    """Refuse weights that would have the right shape and another meaning."""
    if checkpoint.metadata.get(ATTENTION_ORDER) != BY_HEAD:
        return
    for name, module in model.named_modules():
        if getattr(module, "use_new_attention_order", False):
            raise CheckpointError(
                f"{checkpoint.path}: attention of diffusers is read head by head, but {name} has "
                "use_new_attention_order=True; leave that out"
            )


def _counted(names: Iterable[str]) -> str:
    """For instance ``12 (denoiser 8, conditioners.0 4)``."""
    names = list(names)
    parts = Counter(_part(name) for name in names)
    listed = ", ".join(f"{part} {count}" for part, count in parts.items())
    return f"{len(names)} ({listed})"


def _part(name: str) -> str:
    first, _, rest = name.split(" ")[0].partition(".")
    return f"{first}.{rest.split('.')[0]}" if first == "conditioners" else first
