"""Checkpoint files: read without running code from them, load strictly, write atomically."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from ldm.compat.checkpoints import from_compvis, is_compvis
from ldm.config import write_atomically
from ldm.errors import CheckpointError

SUFFIXES = (".ckpt", ".pt", ".pth", ".safetensors")
_SHOWN = 10
_PARTS = ("autoencoder.", "denoiser.")
_ALLOWED = re.compile(
    r"collections\.OrderedDict"
    r"|torch\._utils\._rebuild_(tensor|tensor_v2|parameter)"
    r"|torch\.(Size|device|float\d+|bfloat16|u?int\d+|bool)"
    r"|numpy\.(core|_core)\.multiarray\.(scalar|_reconstruct)"
    r"|numpy\.(dtype|ndarray)"
    r"|_codecs\.encode"
)


@dataclass(frozen=True)
class LoadedCheckpoint:
    """What a checkpoint file holds.

    Attributes:
        path: the file, for messages.
        state_dict: weights under the names of the file.
        format: ``native`` or ``compvis``.
        ema: averaged weights of a native training checkpoint, by their names in the model.
        metadata: the numbers and texts beside the weights, e.g. ``global_step``.
    """

    path: Path
    state_dict: dict[str, Tensor]
    format: str
    ema: dict[str, Tensor] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)


def read_state(path: str | Path) -> LoadedCheckpoint:
    """Read the weights of a ``.ckpt``, ``.pt``, ``.pth`` or ``.safetensors`` file onto the CPU.

    Objects of other libraries in old training checkpoints become inert; nothing in a file is ever
    executed.

    Raises:
        CheckpointError: no such file, damaged, or without weights.
    """
    path = _existing(path)
    if path.suffix == ".safetensors":
        return _loaded(path, *_read_safetensors(path))
    try:
        content = _torch_load(path, weights_only=True)
    except pickle.UnpicklingError:
        content = _torch_load_inert(path)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds no dict of weights")
    state = content.get("state_dict", content)
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{path}: its entry 'state_dict' is no dict of weights")
    metadata = {k: v for k, v in content.items() if isinstance(v, (bool, int, float, str))}
    ema = content.get("ema")
    shadow = ema.get("shadow", {}) if isinstance(ema, Mapping) and state is not content else {}
    return _loaded(path, state, metadata, shadow)


def load_training_checkpoint(
    path: str | Path, map_location: torch.device | str | None = None
) -> dict[str, Any]:
    """All of a native training checkpoint, optimiser states included, for resuming.

    Raises:
        CheckpointError: no such file, damaged, or with anything but tensors and plain values.
    """
    path = _existing(path)
    try:
        content: dict[str, Any] = _torch_load(
            path, weights_only=True, map_location=map_location or "cpu"
        )
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is damaged, or no training checkpoint of this library: it holds more than "
            "tensors and plain values"
        ) from error
    return content


def save(content: Mapping[str, Any], path: str | Path) -> None:
    """Write a checkpoint (``.safetensors``: a flat dict of tensors), replacing ``path`` at the end.

    A crash leaves the old file or the new one, never half of one.
    """
    if Path(path).suffix == ".safetensors":
        from safetensors.torch import save as to_bytes

        tensors = {key: value.contiguous() for key, value in content.items()}
        write_atomically(path, lambda file: file.write(to_bytes(tensors)))
    else:
        write_atomically(path, lambda file: torch.save(content, file))


def load_weights(model: nn.Module, checkpoint: LoadedCheckpoint, ema: bool = True) -> None:
    """Copy the weights of a checkpoint of either format into ``model``, strictly.

    An autoencoder or a denoiser also takes its part of the checkpoint of a whole diffusion model.
    A diffusion model keeps its own scale factor if the checkpoint has none.

    Args:
        model: a diffusion model, or one of its networks.
        checkpoint: what ``read_state`` returned.
        ema: use averaged weights where the checkpoint has them.

    Raises:
        CheckpointError: keys or shapes differ (up to ten of each kind are named), or the noise
            schedule in the file is not the model's.
    """
    schedule = getattr(model, "schedule", None)
    buffers = dict(schedule.named_buffers()) if isinstance(schedule, nn.Module) else None
    try:
        state = native_state(checkpoint, ema, buffers)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint.path}: {error}") from error
    expected = model.state_dict()
    for prefix in _PARTS:
        if not expected.keys() & state.keys() and all(prefix + key in state for key in expected):
            state = {key: state[prefix + key] for key in expected}
    if "scale_factor" in expected and "scale_factor" not in state:
        state["scale_factor"] = expected["scale_factor"]
    _check_fit(checkpoint.path, state, expected)
    model.load_state_dict({key: state[key].reshape(expected[key].shape) for key in expected})


def native_state(
    checkpoint: LoadedCheckpoint, ema: bool = True, schedule: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """The weights of the model alone (no training objective) under native names.

    Args:
        checkpoint: what ``read_state`` returned.
        ema: use averaged weights where the checkpoint has them.
        schedule: the model's own schedule buffers, to compare CompVis files with.
    """
    if checkpoint.format == "compvis":
        state = from_compvis(checkpoint.state_dict, schedule, ema)
    else:
        state = dict(checkpoint.state_dict)
        if state and all(key.startswith(("model.", "objective.")) for key in state):
            state = {key.removeprefix("model."): value for key, value in state.items()}
        if ema:
            state |= checkpoint.ema
    return {key: value for key, value in state.items() if not key.startswith("objective.")}


def _loaded(
    path: Path, state: Mapping[Any, Any], metadata: dict[str, Any], ema: Any = None
) -> LoadedCheckpoint:
    tensors = _tensors(state)
    if not tensors:
        raise CheckpointError(f"{path} holds no weights (no dict of tensors in it)")
    kind = "compvis" if is_compvis(tensors) else "native"
    return LoadedCheckpoint(path, tensors, kind, _tensors(ema or {}), metadata)


def _tensors(state: Any) -> dict[str, Tensor]:
    if not isinstance(state, Mapping):
        return {}
    return {str(k): v.detach() for k, v in state.items() if isinstance(v, Tensor)}


def _check_fit(path: Path, got: Mapping[str, Tensor], want: Mapping[str, Tensor]) -> None:
    shapes = [
        f"{key}: {tuple(got[key].shape)} in the file, {tuple(want[key].shape)} in the model"
        for key in want
        if key in got
        and got[key].shape != want[key].shape
        # numbers are stored with shape () or (1,)
        and not got[key].numel() == want[key].numel() == 1
    ]
    problems = {
        "missing": [key for key in want if key not in got],
        "unexpected": [key for key in got if key not in want],
        "of another shape": shapes,
    }
    texts = [
        f"{len(keys)} {kind} ({'; '.join(keys[:_SHOWN])}{', ...' if len(keys) > _SHOWN else ''})"
        for kind, keys in problems.items()
        if keys
    ]
    if texts:
        raise CheckpointError(
            f"{path} does not fit the model: {', '.join(texts)}; "
            "use the config that belongs to the checkpoint"
        )


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; give the checkpoint file in it")
    if not path.exists():
        raise CheckpointError(f"{path}: no such checkpoint file")
    return path


def _torch_load(path: Path, **options: Any) -> Any:
    """``torch.load`` with one kind of error for all that may be wrong with a file."""
    options = {"map_location": "cpu", **options}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about formats that are refused anyway
            return torch.load(path, **options)
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # a damaged file can raise anything at all
        raise CheckpointError(
            f"{path} is damaged or no checkpoint: {_first_line(error)}"
        ) from error


def _torch_load_inert(path: Path) -> Any:
    """Read a pickle that names classes which ``torch.load(weights_only=True)`` refuses."""
    reader = SimpleNamespace(__name__="inert", Unpickler=_InertUnpickler, load=_load_inert)
    try:
        return _torch_load(path, weights_only=False, pickle_module=reader)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is damaged or no checkpoint: {_first_line(error)}"
        ) from error


class _Inert:
    """Stands for any object of a class that is not allowed: takes everything, does nothing."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        pass

    def __call__(self, *_args: Any, **_kwargs: Any) -> _Inert:
        return self

    def _ignore(self, *_args: Any, **_kwargs: Any) -> None:
        pass

    __setstate__ = __setitem__ = append = extend = add = update = _ignore


class _InertUnpickler(pickle.Unpickler):
    """Imports what tensors are made of and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """The allowed function or class of that name; ``_Inert`` for all others."""
        if not _ALLOWED.fullmatch(f"{module}.{name}"):
            return _Inert
        found: Callable[..., Any] = super().find_class(module, name)
        if isinstance(found, type) or not callable(found):
            return found
        return lambda *args: found(*args)  # what a pickle does to it is not done to the original


def _load_inert(file: BinaryIO, **options: Any) -> Any:
    return _InertUnpickler(file, **options).load()


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            keys = list(file.keys())
            return {key: file.get_tensor(key) for key in keys}, dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is damaged or no safetensors file: {_first_line(error)}"
        ) from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__
