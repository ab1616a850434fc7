"""Random numbers of the samples of a batch, the same however the batch is split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class BatchGenerator(torch.Generator):
    """Source of random numbers for a part of a batch.

    The functions of this module draw for the whole batch and keep the rows of the part. Several
    processes, or several parts that are worked on one after the other, thus see the numbers that
    one process would see that has all of the batch; and they are made by one call on the device.

    To code that does not know of parts, such as ``torch.randn(..., generator=...)``, it is a
    generator like any other, whose numbers differ from part to part.

    Args:
        device: where numbers are drawn.
        seed: of the whole batch.
        own_seed: of the numbers that only this part draws.
        start: first row of the part.
        stop: the row after its last.
        total: rows of the whole batch.
    """

    def __new__(cls, device: torch.device, *_: int) -> BatchGenerator:
        """Torch makes a generator for a device before ``__init__`` sees it."""
        return super().__new__(cls, device)  # type: ignore[call-arg]

    def __init__(
        self, device: torch.device, seed: int, own_seed: int, start: int, stop: int, total: int
    ) -> None:
        super().__init__()
        if not 0 <= start <= stop <= total:
            raise ValueError(f"rows {start} to {stop} of a batch of {total}")
        self.manual_seed(own_seed)
        self.start, self.stop, self.total = start, stop, total
        self._seeds = seed, own_seed
        self._whole = torch.Generator(device).manual_seed(seed)

    def narrow(self, start: int, length: int) -> BatchGenerator:
        """A fresh generator of some rows of this part, counted from its first."""
        seed, own_seed = self._seeds
        first = self.start + start
        own = (own_seed + first) % 2**63
        return BatchGenerator(self.device, seed, own, first, first + length, self.total)

    def rows(self, draw: Any, shape: Sequence[int], **options: Any) -> Tensor:
        """This part of ``draw(shape)``; from its own numbers if ``shape`` is not that of a part."""
        if shape[0] != self.stop - self.start:
            return draw(tuple(shape), generator=self, device=self.device, **options)
        whole = (self.total, *shape[1:])
        drawn = draw(whole, generator=self._whole, device=self.device, **options)
        part = drawn[self.start : self.stop]
        return part if len(part) == self.total else part.clone()  # let go of the others' numbers


def draw_normal(
    shape: Sequence[int],
    generator: torch.Generator | None,
    device: torch.device,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Standard normal numbers of ``shape`` (B, ...), drawn where the generator is."""
    return _draw(torch.randn, shape, generator, device, dtype=dtype)


def draw_uniform(
    shape: Sequence[int], generator: torch.Generator | None, device: torch.device
) -> Tensor:
    """Numbers in [0, 1) of ``shape`` (B, ...), drawn where the generator is."""
    return _draw(torch.rand, shape, generator, device)


def draw_integers(
    low: int,
    high: int,
    shape: Sequence[int],
    generator: torch.Generator | None,
    device: torch.device,
) -> Tensor:
    """Integers from ``low`` to ``high`` - 1 of ``shape`` (B, ...), drawn where the generator is."""

    def draw(size: Sequence[int], **options: Any) -> Tensor:
        return torch.randint(low, high, size, **options)

    return _draw(draw, shape, generator, device)


def _draw(
    draw: Any,
    shape: Sequence[int],
    generator: torch.Generator | None,
    device: torch.device,
    **options: Any,
) -> Tensor:
    if isinstance(generator, BatchGenerator):
        return generator.rows(draw, shape, **options).to(device)
    source = device if generator is None else generator.device
    drawn: Tensor = draw(tuple(shape), generator=generator, device=source, **options)
    return drawn.to(device)
