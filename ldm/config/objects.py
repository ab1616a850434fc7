"""Whether a built object is what a constructor expects, by the annotations of its parameters.

A class of this library stands for whatever has most of its public names: components of a user's own
need not inherit from it, nor have what nothing asks them for. What cannot be told is admitted.
"""

from __future__ import annotations

import collections.abc
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

_PLAIN = (type(None), bool, int, float, str, bytes)
_PACKAGE = __name__.partition(".")[0]
_SPECIAL = ("__call__", "__getitem__", "__iter__", "__len__")


def unsuited(
    factory: Callable[..., Any], arguments: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """The arguments that do not suit, and why.

    Args:
        factory: what is going to be called.
        arguments: by name.

    Yields:
        Name of the parameter, and what is expected and was built.
    """
    hints = _hints(factory)
    for key, value in arguments.items():
        if key in hints and not _suits(value, hints[key]):
            yield key, f"expected {_said(hints[key])}, got {_shown(value)}"


def _hints(factory: Callable[..., Any]) -> dict[str, Any]:
    function: Any = factory.__init__ if inspect.isclass(factory) else factory
    try:
        return typing.get_type_hints(function)
    except Exception:  # names that only type checkers see
        return {}


def _suits(value: Any, hint: Any) -> bool:
    if hint in (Any, object):
        return True
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_suits(value, part) for part in inner)
    if hint is None or hint is type(None):
        return value is None
    if origin is collections.abc.Callable:
        return callable(value)
    if isinstance(origin, type) and issubclass(origin, collections.abc.Collection):
        return _suits_collection(value, origin, inner)
    kind = origin if origin is not None else hint
    return _suits_class(value, kind) if isinstance(kind, type) else True


def _suits_collection(value: Any, origin: type, inner: tuple[Any, ...]) -> bool:
    if isinstance(value, dict):
        last = inner[-1:] if issubclass(origin, collections.abc.Mapping) else ()
        return bool(last) and all(_suits(item, last[0]) for item in value.values())
    if not isinstance(value, list):  # tuples, arrays: those of programs
        return not isinstance(value, _PLAIN)
    if issubclass(origin, collections.abc.Mapping):
        return False
    fixed = origin is tuple and Ellipsis not in inner
    hints = inner if fixed else inner[:1] * len(value)
    return len(hints) == len(value) and all(map(_suits, value, hints))


def _suits_class(value: Any, kind: type) -> bool:
    if kind is float and isinstance(value, int):
        return not isinstance(value, bool)
    if kind is int:
        return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool))
    if kind.__module__ == "pathlib" or issubclass(kind, str):
        return isinstance(value, (kind, str))
    own = [part for part in kind.__mro__ if part.__module__.partition(".")[0] == _PACKAGE]
    if not getattr(kind, "_is_protocol", False):
        if isinstance(value, kind):
            return True
        if kind.__module__.startswith("torch.utils.data"):  # anything with items will do
            return hasattr(value, "__getitem__") or hasattr(value, "__iter__")
        if isinstance(value, (*_PLAIN, list, dict)) or not own:
            return False
    names = {name for part in own for name in _public(part)}
    return 2 * sum(hasattr(value, name) for name in names) >= len(names)


def _public(kind: type) -> set[str]:
    names = {*vars(kind), *vars(kind).get("__annotations__", ())}
    return {name for name in names if not name.startswith("_") or name in _SPECIAL}


def _said(hint: Any) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_said(part) for part in inner)
    if hint is None or hint is type(None):
        return "null"
    collection = origin is not None and origin.__module__ == "collections.abc"
    if inspect.isclass(origin or hint) and not inner[1:] and not collection:
        return str((origin or hint).__name__)
    return str(hint).replace("typing.", "").replace("collections.abc.", "")


def _shown(value: Any) -> str:
    if isinstance(value, _PLAIN):
        text = repr(value)
        return text if len(text) <= 80 else f"{text[:77]}..."
    if isinstance(value, list):
        return (
            f"a list of {', '.join(sorted({type(item).__name__ for item in value})) or 'nothing'}"
        )
    return f"an object of the class {type(value).__name__}"
