"""How messages about configs name places, and walks through their trees."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from omegaconf.errors import GrammarParseError, OmegaConfBaseException, UnsupportedValueType

_LONGEST = 400
"""Letters of a foreign message that are shown."""


def walk(tree: Any, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All (path, value) pairs of a tree of mappings and lists, parents first."""
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(tree, dict):
        items = tree.items()
    elif isinstance(tree, list):
        items = enumerate(tree)
    for key, value in items:
        path = (*prefix, str(key))
        yield path, value
        yield from walk(value, path)


def parts_of(key: str) -> list[str]:
    """``a.0.b`` and ``a[0].b`` -> ``["a", "0", "b"]``."""
    return [part for part in re.split(r"[.\[\]]+", key) if part]


def join(path: str, key: str) -> str:
    """The place of a key below a place, which may be the top: ""."""
    return f"{path}.{key}" if path else key


def at(path: str) -> str:
    """The beginning of a message about a place."""
    return f"{path}: " if path else ""


def one_line(error: object) -> str:
    """What an error says, in one line."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    if isinstance(error, OmegaConfBaseException):
        lines = lines[:1]  # the others describe its internals
    return " ".join(" ".join(lines).split()) + _remedy(error)


def _remedy(error: object) -> str:
    """What to write instead, where OmegaConf says only what its parser has met."""
    if isinstance(error, GrammarParseError):
        return (
            "; refer to another key as ${name.of.it}, and write \\${ where these letters are meant"
        )
    if isinstance(error, UnsupportedValueType):
        return "; write text in quotes, a number, true, false, null, a list or a mapping"
    return ""


def failure(error: BaseException) -> str:
    """What went wrong inside a callable, in one line: the kind of error too, where that matters."""
    text = one_line(error)
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}..."
    if isinstance(error, (ValueError, TypeError)) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
