"""What is computed from a weight alone, once for all calls between which it does not change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor, nn

_kept: ContextVar[dict[Any, tuple[Tensor, Tensor]] | None] = ContextVar("_kept", default=None)


@contextmanager
def constant_weights() -> Iterator[None]:
    """Promise that no weight changes inside a ``with`` block (of this thread), as in sampling."""
    outer = _kept.get()
    token = _kept.set({} if outer is None else outer)
    try:
        yield
    finally:
        _kept.reset(token)


def are_constant() -> bool:
    """Whether weights are promised not to change."""
    return _kept.get() is not None


def computed_once(function: Callable[[Tensor], Tensor], weight: Tensor) -> Tensor:
    """``function(weight)``; that of a parameter is kept to the end of ``constant_weights``."""
    kept = _kept.get()
    if kept is None or not isinstance(weight, nn.Parameter):  # others may be made anew each time
        return function(weight)
    key = function, id(weight)
    if key not in kept:
        kept[key] = weight, function(weight)  # with the weight, lest another takes its id
    return kept[key][1]
