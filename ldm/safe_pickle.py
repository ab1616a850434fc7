"""``torch.load`` for files that nobody vouches for: no code in them is ever executed."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import torch

from ldm.errors import CheckpointError
from ldm.pickles.files import scan_file
from ldm.pickles.values import RefusedError

_ALLOWED = re.compile(
    r"collections\.OrderedDict"
    r"|torch\._utils\._rebuild_(tensor|tensor_v2|parameter)"
    r"|torch\.(Size|device|float\d+|bfloat16|u?int\d+|bool)"
)
"""Nothing of numpy: arrays of objects and types with made-up fields read and write any address."""
_HOSTILE = re.compile(
    r"(os|posix|nt|subprocess|pty|commands|shutil|sys|socket|runpy|importlib|ctypes|code|codeop"
    r"|marshal|pickle|_pickle|cloudpickle|dill|webbrowser|timeit|pdb|bdb"
    r"|torch\.(serialization(?!\._get_layout$)|hub|utils\.cpp_extension)"
    r")\..+"
    r"|_?io\.open(_code)?|types\.(Code|Function|Lambda)Type"
    r"|(builtins|__builtin__)\.(eval|exec|execfile|compile|open|__import__|input|breakpoint)"
)
"""What only files that try to run code ask for."""


class HostileFileError(CheckpointError):
    """A file that tries to run code, none of which was run."""


def load_plain(path: Path, map_location: torch.device | str = "cpu") -> Any:
    """Content of a file that holds nothing but tensors and plain values.

    Raises:
        pickle.UnpicklingError: it holds more, see ``load_inert``.
        CheckpointError: it is damaged.
    """
    return _torch_load(path, weights_only=True, map_location=map_location)


def load_inert(path: Path) -> Any:
    """Content of a file, with inert objects for what ``load_plain`` refuses.

    Raises:
        HostileFileError: it tries to run code.
        CheckpointError: it is damaged.
    """
    reader = SimpleNamespace(__name__="inert", Unpickler=_InertUnpickler, load=_unpickle_inert)
    try:
        return _torch_load(path, weights_only=False, map_location="cpu", pickle_module=reader)
    except _AsksForCode as error:
        raise _hostile(path, str(error)) from error
    except pickle.UnpicklingError as error:
        raise _damaged(path, error) from error


def as_mapping(content: Any) -> Any:
    """What an inert object holds by name, if it stands for a mapping; anything else as it is."""
    return content.entries if isinstance(content, _Inert) and content.entries else content


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its class if it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__


def _torch_load(path: Path, **options: Any) -> Any:
    """``torch.load`` with one kind of error for all that may be wrong with a file.

    What the pickles in it would build is looked at first: whatever they may import, they could take
    any amount of memory and time, or more stack than there is.
    """

    def see(name: str) -> None:
        if _HOSTILE.fullmatch(name):
            raise _hostile(path, name[:80])

    try:
        scan_file(path, see)
    except RefusedError as error:
        raise _damaged(path, error) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about formats that are refused anyway
            return torch.load(path, **options)
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # a damaged file can raise anything at all
        raise _damaged(path, error) from error


def _hostile(path: Path, name: str) -> HostileFileError:
    return HostileFileError(
        f"{path} tries to run code ({name}) and is refused; nothing of it was run"
    )


def _damaged(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path} is damaged or no checkpoint: {first_line(error)}")


class _AsksForCode(pickle.UnpicklingError):
    """The message names the function or class."""


class _Inert:
    """Stands for any object of a class that is not allowed: takes everything, does nothing.

    Attributes:
        entries: what it holds by name, if it is a mapping.
    """

    entries: dict[str, Any]

    def __new__(cls, *_args: Any, **_kwargs: Any) -> _Inert:
        made = super().__new__(cls)
        made.entries = {}
        return made

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        pass

    def __call__(self, *_args: Any, **_kwargs: Any) -> _Inert:
        return self

    def _ignore(self, *_args: Any, **_kwargs: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        if type(key) is str:
            self.entries[key] = value

    __setstate__ = append = extend = add = update = _ignore


class _InertUnpickler(pickle.Unpickler):
    """Imports what tensors are made of and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """The allowed function or class of that name; ``_Inert`` for all others.

        Raises:
            _AsksForCode: it is one that old training checkpoints have no use for.
        """
        if _HOSTILE.fullmatch(f"{module}.{name}"):
            raise _AsksForCode(f"{module}.{name}"[:80])
        if not _ALLOWED.fullmatch(f"{module}.{name}"):
            return _Inert
        found: Callable[..., Any] = super().find_class(module, name)
        if isinstance(found, type) or not callable(found):
            return found
        return lambda *args: found(*args)  # what a pickle does to it is not done to the original


def _unpickle_inert(file: BinaryIO, **options: Any) -> Any:
    return _InertUnpickler(file, **options).load()
