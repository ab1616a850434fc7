"""Checkpoint files: read without running code from them, load strictly, write atomically."""

from __future__ import annotations

import pickle
import shutil
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from ldm.compat.compvis.weights import (
    from_compvis,
    from_compvis_classifier,
    is_compvis,
    is_compvis_classifier,
    is_training_only,
    refuse_unsupported,
)
from ldm.compat.diffusers.autoencoder import from_diffusers, is_diffusers
from ldm.containers.tensors import Content, read_tensors, serialised
from ldm.containers.zips import check_if_zip, check_zip
from ldm.errors import CheckpointError, DamagedCheckpointError, DamagedFileError
from ldm.files import reason, shown, stand_in, write_atomically
from ldm.safe_pickle import as_mapping, load_inert, load_plain

CHECKPOINTS, LAST = "checkpoints", "last.ckpt"
"""Folder of a run with its checkpoints, and the newest of them."""
SUFFIXES = (".ckpt", ".pt", ".pth", ".bin", ".safetensors")
_SHOWN = 10
_PARTS = ("autoencoder.", "denoiser.")
_LOSS_OF_PART = "loss."
_COUNTING = (
    ".embeddings.position_ids"  # 0, 1, 2, ...: CLIP in files of old versions of transformers
)


@dataclass(frozen=True)
class LoadedCheckpoint:
    """What a checkpoint file holds.

    Attributes:
        path: the file, for messages.
        state_dict: weights under the names of the file.
        format: ``native``, ``compvis`` or ``diffusers``.
        ema: averaged weights of a native training checkpoint, by their names in the model.
        metadata: the numbers and texts beside the weights, e.g. ``global_step``.
    """

    path: Path
    state_dict: dict[str, Tensor]
    format: str
    ema: dict[str, Tensor] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)


def read_state(path: str | Path, check: bool = True) -> LoadedCheckpoint:
    """Read the weights of a ``.safetensors`` file, or of a pickle of torch, onto the CPU.

    Objects of other libraries in old training checkpoints become inert; nothing in a file is ever
    executed.

    Args:
        path: the file.
        check: compare the file with its checksums, which takes a second for several GB. Pickles of
            torch before 1.6 and safetensors files of other libraries have none.

    Raises:
        CheckpointError: no such file, damaged, or without weights.
    """
    path = _existing(path)
    if path.suffix == ".safetensors":
        return _loaded(path, *_read_safetensors(path, check))
    if check:
        _compare(path, check_if_zip, _way_out(path))
    try:
        content = load_plain(path)
    except pickle.UnpicklingError:
        content = load_inert(path)
    content = as_mapping(content)
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{path} holds no dict of weights; of a model save the state_dict(), not itself"
        )
    state = as_mapping(content.get("state_dict", content))
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{path}: its entry 'state_dict' is no dict of weights")
    metadata = {k: v for k, v in content.items() if isinstance(v, (bool, int, float, str))}
    ema = content.get("ema")
    shadow = ema.get("shadow", {}) if isinstance(ema, Mapping) and state is not content else {}
    return _loaded(path, state, metadata, shadow)


def load_training_checkpoint(
    path: str | Path, map_location: torch.device | str | None = None, check: bool = True
) -> dict[str, Any]:
    """All of a native training checkpoint, optimiser states included, for resuming.

    Args:
        path: the file.
        map_location: where tensors go; None: the CPU.
        check: compare the file with its checksums.

    Raises:
        CheckpointError: no such file, damaged, or with anything but tensors and plain values.
    """
    path = _existing(path)
    if check:
        _compare(path, check_if_zip, _way_out(path))
    try:
        content: dict[str, Any] = load_plain(path, map_location or "cpu")
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is damaged, or no training checkpoint of this library: it holds more than "
            "tensors and plain values"
        ) from error
    return content


def save(content: Mapping[str, Any], path: str | Path, keep: Path | None = None) -> None:
    """Write a checkpoint (``.safetensors``: a flat dict of tensors), replacing ``path`` at the end.

    A crash leaves the old file or the new one, never half of one. Both kinds have checksums.

    Args:
        content: what to write.
        path: the file.
        keep: name in the same folder under which the file that was there before stays.

    Raises:
        CheckpointError: it cannot be written, as on a full disk; what was there before still is.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        parts = serialised(content, {"format": "pt"})  # other libraries ask for it

        def write(file: BinaryIO) -> None:
            file.writelines(parts)
    else:

        def write(file: BinaryIO) -> None:
            torch.save(content, file)

    try:
        write_atomically(path, write, keep)
    except (OSError, RuntimeError) as error:
        # torch reports in words of its own what the file said to it
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise CheckpointError(
            f"{path} cannot be written: {cause.strerror or cause}{_free_space(path)}; files that "
            "were there before are as they were"
        ) from error


def _free_space(path: Path) -> str:
    folder = next((place for place in path.absolute().parents if place.exists()), None)
    return "" if folder is None else f" ({shutil.disk_usage(folder).free / 1e6:.0f} MB free)"


def verify(path: str | Path) -> None:
    """Compare all that a training checkpoint holds with its checksums (CRC-32, those of zip files).

    Raises:
        DamagedCheckpointError: no regular file, cut short, not readable, or a byte is not what was
            written.
        CheckpointError: no such file, or this user may not read it.
    """
    path = Path(path)
    if path.is_dir():
        raise DamagedCheckpointError(f"{shown(path)} is damaged: it is a folder")
    _compare(path, check_zip)


def _compare(path: Path, check: Callable[[Path], object], remedy: str = "") -> None:
    try:
        check(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{shown(path)}: no such checkpoint file") from error
    except PermissionError as error:
        raise CheckpointError(f"{shown(path)} cannot be read: {reason(error)}") from error
    except OSError as error:
        raise DamagedCheckpointError(
            f"{shown(path)} is damaged: {reason(error)}{remedy}"
        ) from error
    except DamagedFileError as error:
        raise DamagedCheckpointError(f"{error}{remedy}") from error


def _way_out(path: Path) -> str:
    """What to do about a damaged checkpoint of a run, as the end of a message."""
    if path.parent.name != CHECKPOINTS:
        return "; copy or make it anew"
    run = shown(path.parent.parent)
    others = [path.with_name(name) for name in ("previous.ckpt", "best.ckpt", LAST)]
    other = next((file for file in others if file != path and file.is_file()), None)
    again = f"train.py --resume {run} goes on from the newest whole one"
    return f"; {again}" + ("" if other is None else f", --checkpoint {shown(other)} uses another")


def load_weights(model: nn.Module, checkpoint: LoadedCheckpoint, ema: bool = True) -> None:
    """Copy the weights of a checkpoint of any format into ``model``, strictly.

    An autoencoder or a denoiser also takes its part of the checkpoint of a whole diffusion model.
    A diffusion model keeps its own scale factor, a codebook the state of its upkeep in training,
    and a part that checkpoints need not hold its weights, if the checkpoint has none.

    Args:
        model: a diffusion model, or one of its networks.
        checkpoint: what ``read_state`` returned.
        ema: use averaged weights where the checkpoint has them.

    Raises:
        CheckpointError: keys or shapes differ (up to ten of each kind are named), or the noise
            schedule in the file is not the model's.
    """
    model.load_state_dict(fitting_state(model, checkpoint, ema))


def fitting_state(
    model: nn.Module, checkpoint: LoadedCheckpoint, ema: bool = True
) -> dict[str, Tensor]:
    """The weights that ``load_weights`` copies; the model may stand on the meta device.

    Raises:
        CheckpointError: as ``load_weights``.
    """
    fit = compare(model, checkpoint, ema)
    if ema:
        _check_average_is_complete(model, checkpoint)
    if not fit.complete:
        raise CheckpointError(
            f"{checkpoint.path} does not fit the model: {_problems(fit)}; "
            "use the config that belongs to the checkpoint"
        )
    return fit.own | fit.state


@dataclass(frozen=True)
class Fit:
    """Weights of a file beside those of a model, by name.

    Attributes:
        own: the model's.
        found: those of the file under native names; of a whole model only the part that this is.
        missing: in the model, and not in the file, though it should be.
        unexpected: in the file, and unknown to the model.
        misshapen: in both, of different shapes.
    """

    own: dict[str, Tensor]
    found: dict[str, Tensor]
    missing: list[str]
    unexpected: list[str]
    misshapen: list[str]

    @property
    def complete(self) -> bool:
        """Whether the file has all weights of the model, and no others."""
        return not (self.missing or self.unexpected or self.misshapen)

    @property
    def state(self) -> dict[str, Tensor]:
        """The weights of the file that the model can take, in its shapes."""
        names = [key for key in self.found if key in self.own and key not in self.misshapen]
        return {key: self.found[key].reshape(self.own[key].shape) for key in names}


def compare(
    model: nn.Module, checkpoint: LoadedCheckpoint, ema: bool = True, schedule: bool = True
) -> Fit:
    """How a checkpoint of any format fits a model, which may stand on the meta device.

    Args:
        model: a diffusion model, or one of its networks.
        checkpoint: what ``read_state`` returned.
        ema: prefer averaged weights.
        schedule: refuse the noise schedule of another model.

    Raises:
        CheckpointError: the file is of a kind that no model here has, or of another schedule.
    """
    part = getattr(model, "schedule", None) if schedule else None
    buffers = dict(part.named_buffers()) if isinstance(part, nn.Module) else None
    try:
        found = native_state(checkpoint, ema, buffers)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint.path}: {error}") from error
    own = dict(model.state_dict())
    found = part_for(found, own)
    optional = {"scale_factor", *left_out(model, found, own)}
    return Fit(
        own=own,
        found=found,
        missing=[
            key
            for key in own
            if key not in found and key not in optional and not is_training_only(key)
        ],
        unexpected=[key for key in found if key not in own and not is_training_only(key)],
        misshapen=[key for key in own if key in found and not _alike(found[key], own[key])],
    )


def _alike(first: Tensor, second: Tensor) -> bool:
    """Whether they have one shape; numbers are stored with shape () or (1,)."""
    return first.shape == second.shape or first.numel() == second.numel() == 1


def _check_average_is_complete(model: nn.Module, checkpoint: LoadedCheckpoint) -> None:
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    lacking = sorted(learning - checkpoint.ema.keys())
    if learning & checkpoint.ema.keys() and lacking:
        raise CheckpointError(
            f"{checkpoint.path}: {len(lacking)} weights have no averaged copy, first {lacking[0]}: "
            "load it with ema=False (--no-ema)"
        )


def optional_parts(model: nn.Module) -> tuple[str, ...]:
    """Prefixes of the parts whose weights checkpoints need not hold (``in_checkpoint`` False)."""
    parts = model.named_modules()
    return tuple(f"{name}." for name, part in parts if not getattr(part, "in_checkpoint", True))


def left_out(
    model: nn.Module, state: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The model's own weights of those optional parts of which ``state`` holds nothing.

    Args:
        model: any network.
        state: weights by their names in it.
        own: its state dict.
    """
    parts = [p for p in optional_parts(model) if not any(key.startswith(p) for key in state)]
    return {key: value for key, value in own.items() if key.startswith(tuple(parts))}


def native_state(
    checkpoint: LoadedCheckpoint, ema: bool = True, schedule: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """The weights of the model alone (no training objective) under native names.

    Args:
        checkpoint: what ``read_state`` returned.
        ema: use averaged weights where the checkpoint has them.
        schedule: the model's own schedule buffers, to compare CompVis files with.
    """
    refuse_unsupported(checkpoint.state_dict)
    if is_compvis_classifier(checkpoint.state_dict):
        return from_compvis_classifier(checkpoint.state_dict, schedule)
    if checkpoint.format == "compvis":
        state = from_compvis(checkpoint.state_dict, schedule, ema)
    elif checkpoint.format == "diffusers":
        state = from_diffusers(checkpoint.state_dict)
    else:
        state = dict(checkpoint.state_dict)
        if state and all(key.startswith(("model.", "objective.")) for key in state):
            state = {key.removeprefix("model."): value for key, value in state.items()}
        if ema:
            state |= checkpoint.ema
    return {
        key: value
        for key, value in state.items()
        if not key.startswith("objective.") and not key.endswith(_COUNTING)
    }


def _loaded(
    path: Path, state: Mapping[Any, Any], metadata: Mapping[str, Any], ema: Any = None
) -> LoadedCheckpoint:
    tensors = _tensors(state)
    if not tensors:
        there = ", ".join(str(key)[:40] for key in list(state)[:_SHOWN])
        raise CheckpointError(
            f"{path} holds no weights (no dict of tensors in it): its entries are {there or 'none'}"
        )
    kind = "compvis" if is_compvis(tensors) else "native"
    kind = "diffusers" if is_diffusers(tensors) else kind
    return LoadedCheckpoint(path, tensors, kind, _tensors(ema or {}), dict(metadata))


def _tensors(state: Any) -> dict[str, Tensor]:
    if not isinstance(state, Mapping):
        return {}
    return {str(k): v.detach() for k, v in state.items() if isinstance(v, Tensor)}


def part_for(state: dict[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What belongs to the model if it is a part of the diffusion model in the file; else all."""
    if expected.keys() & state.keys():
        return state
    for prefix in _PARTS:
        part = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        if expected.keys() & part.keys():
            return {k: v for k, v in part.items() if not k.startswith(_LOSS_OF_PART)}
    return state


def _problems(fit: Fit) -> str:
    """Up to ten names of each kind."""
    sides = ((fit.found, "file"), (fit.own, "model"))
    shapes = [
        f"{key}: {', '.join(f'{tuple(side[key].shape)} in the {name}' for side, name in sides)}"
        for key in fit.misshapen
    ]
    kinds = {"missing": fit.missing, "unexpected": fit.unexpected, "of another shape": shapes}
    return ", ".join(
        f"{len(keys)} {kind} ({'; '.join(keys[:_SHOWN])}{', ...' if len(keys) > _SHOWN else ''})"
        for kind, keys in kinds.items()
        if keys
    )


def _existing(path: str | Path) -> Path:
    path = Path(path)
    try:
        kind = path.stat().st_mode
    except FileNotFoundError as error:
        raise CheckpointError(f"{shown(path)}: no such checkpoint file") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{shown(path)} cannot be read: {reason(error)}") from error
    if stat.S_ISDIR(kind):
        raise CheckpointError(f"{shown(path)} is a folder; give the checkpoint file in it")
    if not stat.S_ISREG(kind):
        raise CheckpointError(f"{shown(path)} is no regular file; give the checkpoint file")
    instead = stand_in(path)
    if instead:
        raise CheckpointError(f"{shown(path)} {instead}")
    return path


def _read_safetensors(path: Path, check: bool) -> Content:
    found: list[Content] = []
    _compare(path, lambda file: found.append(read_tensors(file, check)), _way_out(path))
    return found[0]
