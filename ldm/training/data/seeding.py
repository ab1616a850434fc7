"""Seeds for purposes, and the global generators that code of others draws from."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def key(*parts: int | str) -> int:
    """A seed in [0, 2^63), of the numbers and names that tell a purpose from others."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_global(seed: int) -> None:
    """Seed the global generators of torch on the CPU, numpy and Python."""
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


class GlobalState:
    """The present state of the global generators of torch on the CPU, numpy and Python."""

    def __init__(self) -> None:
        self._torch = torch.get_rng_state()
        self._numpy = np.random.get_state()
        self._python = random.getstate()

    def restore(self) -> None:
        """Return to this state."""
        torch.set_rng_state(self._torch)
        np.random.set_state(self._numpy)
        random.setstate(self._python)


@contextmanager
def aside() -> Iterator[None]:
    """Leave the global generators as they were found."""
    state = GlobalState()
    try:
        yield
    finally:
        state.restore()
