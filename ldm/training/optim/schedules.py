"""Factors of the learning rate as functions of the optimiser step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ldm.errors import check_number


@dataclass(frozen=True)
class Constant:
    """Factor 1, after an optional linear warm-up over ``warmup_steps`` steps."""

    warmup_steps: int = 0

    def __post_init__(self) -> None:
        check_number("warmup_steps", self.warmup_steps, 0)

    def __call__(self, step: int) -> float:
        """The factor at a step, counted from 0."""
        return min(1.0, (step + 1) / max(self.warmup_steps, 1))


@dataclass(frozen=True)
class WarmupCosine:
    """Linear from ``start`` to ``peak``, then half a cosine down to ``end`` at ``decay_steps``.

    Attributes:
        warmup_steps: length of the linear part.
        decay_steps: step at which ``end`` is reached, counted from the beginning; it stays there.
        start: factor at step 0.
        peak: factor after the warm-up.
        end: last factor.
    """

    warmup_steps: int
    decay_steps: int
    start: float = 0.0
    peak: float = 1.0
    end: float = 0.0

    def __post_init__(self) -> None:
        check_number("warmup_steps", self.warmup_steps, 0)
        check_number("decay_steps", self.decay_steps, 0)
        for name in ("start", "peak", "end"):
            check_number(name, getattr(self, name), 0)

    def __call__(self, step: int) -> float:
        """The factor at a step, counted from 0."""
        if step < self.warmup_steps:
            return self.start + (self.peak - self.start) * step / self.warmup_steps
        if step >= self.decay_steps:  # which a short trial may have before the warm-up's end
            return self.end
        u = (step - self.warmup_steps) / (self.decay_steps - self.warmup_steps)
        return self.end + 0.5 * (self.peak - self.end) * (1 + math.cos(math.pi * min(u, 1.0)))


@dataclass(frozen=True)
class _Cycles:
    """Several cycles one after the other; all attributes have one entry per cycle.

    A step on the border of two cycles belongs to the earlier one. After the last cycle its ``end``
    is kept.

    Attributes:
        cycle_lengths: lengths in steps.
        warmup_steps: lengths of the linear parts.
        start: factors at the beginning.
        peak: factors after the warm-up.
        end: factors at the end.
    """

    cycle_lengths: Sequence[int]
    warmup_steps: Sequence[int]
    start: Sequence[float]
    peak: Sequence[float]
    end: Sequence[float]

    def __post_init__(self) -> None:
        values = (self.cycle_lengths, self.warmup_steps, self.start, self.peak, self.end)
        if len({len(v) for v in values}) != 1 or not self.cycle_lengths:
            raise ValueError(
                f"{type(self).__name__}: cycle_lengths, warmup_steps, start, peak and end need the "
                f"same number of entries, at least one; got {[len(v) for v in values]}"
            )
        for k, length in enumerate(self.cycle_lengths):
            check_number(f"cycle_lengths[{k}]", length, 0, above=True)
            check_number(f"warmup_steps[{k}]", self.warmup_steps[k], 0)
            for name in ("start", "peak", "end"):
                check_number(f"{name}[{k}]", getattr(self, name)[k], 0)

    def _find(self, step: int) -> tuple[int, int]:
        """Index of the cycle that a step belongs to, and the step counted from its beginning."""
        for i, length in enumerate(self.cycle_lengths[:-1]):
            if step <= length:
                return i, step
            step -= length
        return len(self.cycle_lengths) - 1, step


@dataclass(frozen=True)
class CosineCycles(_Cycles):
    """Several ``WarmupCosine`` one after the other, each with an entry of every attribute."""

    def __call__(self, step: int) -> float:
        """The factor at a step, counted from 0."""
        i, step = self._find(step)
        cycle = WarmupCosine(
            self.warmup_steps[i], self.cycle_lengths[i], self.start[i], self.peak[i], self.end[i]
        )
        return cycle(step)


@dataclass(frozen=True)
class LinearCycles(_Cycles):
    """Cycles of a linear warm-up and a linear decay; attributes as for ``CosineCycles``.

    As published, the decay is the line from ``peak`` at the beginning of the cycle to ``end`` at
    its end, so there is a small drop after the warm-up.
    """

    def __call__(self, step: int) -> float:
        """The factor at a step, counted from 0."""
        i, step = self._find(step)
        if step < self.warmup_steps[i]:
            return self.start[i] + (self.peak[i] - self.start[i]) * step / self.warmup_steps[i]
        left = max(self.cycle_lengths[i] - step, 0) / self.cycle_lengths[i]
        return self.end[i] + (self.peak[i] - self.end[i]) * left
