"""The words in which denoisers, samplers and models speak to each other.

Nothing here knows about networks, conditions or images: x is any tensor of shape (B, ...).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from torch import Tensor

from ldm.diffusion.schedule import NoiseSchedule

Denoise: TypeAlias = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""``denoise(x (B, ...), t (B,)) -> (x0, eps)``: all that a sampler sees of a model."""

NoiseSource: TypeAlias = Callable[[Tensor], Tensor]
"""``noise(like) -> standard normal tensor`` of the shape, dtype and device of ``like``."""

Project: TypeAlias = Callable[[Tensor, int], Tensor]
"""``project(x, t) -> x``: a correction of the state at step t, before it is denoised."""


@dataclass(frozen=True)
class Step:
    """One update of a sampler.

    Attributes:
        index: 0, 1, 2, ... in the order of sampling.
        t: the time step at which the denoiser was evaluated.
        x: the state after the update; that of the last step is the sample.
        x0: the estimate of the clean data used by the update.
    """

    index: int
    t: int
    x: Tensor
    x0: Tensor


class Sampler(Protocol):
    """Contract of a sampler: immutable options, called once per batch of samples."""

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        schedule: NoiseSchedule,
        noise: NoiseSource,
        project: Project | None = None,
    ) -> Iterator[Step]:
        """Start from x ~ N(0, I) and yield every update as it is made."""

    def num_steps(self, schedule: NoiseSchedule) -> int:
        """How many steps the sampler will yield under this schedule."""
