"""How large the network may be that a config from elsewhere describes.

It is built without storage first, and compared with the weights. That by itself takes time and
memory for each of its parts, and some need no weights in the file: both are counted meanwhile.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from ldm.errors import CheckpointError

MOST_MODULES = 20_000
MOST_NUMBERS = 1 << 34
"""Weights of all parts together; the largest text encoders have a quarter of that."""


class TooLargeError(CheckpointError):
    """A config that describes more than any network of its kind has."""


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Refuse to build more modules or weights.

    Raises:
        TooLargeError: there are more.
    """
    modules = numbers = 0

    def count_module(*_: Any) -> None:
        nonlocal modules
        modules += 1
        if modules > MOST_MODULES:
            raise TooLargeError(f"it describes a network of more than {MOST_MODULES} parts")

    def count_numbers(_: nn.Module, __: str, weight: Tensor | None) -> None:
        nonlocal numbers
        numbers += 0 if weight is None else weight.numel()
        if numbers > MOST_NUMBERS:
            raise TooLargeError(f"it describes a network of more than {MOST_NUMBERS} weights")

    handles = [
        register_module_module_registration_hook(count_module),
        register_module_parameter_registration_hook(count_numbers),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
