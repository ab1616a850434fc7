"""The words in which denoisers, samplers and models speak to each other.

Nothing here knows about networks, conditions or images: x is any tensor of shape (B, ...).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from ldm.diffusion.schedule import NoiseSchedule
from ldm.layers.winograd import constant_weights

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
        index: number of the update, 0, 1, 2, ... in the order of sampling.
        t: the time step at which the update began.
        x: the state after the update; that of the last step is the sample.
        x0: the estimate of the clean data used by the update.
    """

    index: int
    t: int
    x: Tensor
    x0: Tensor


class Sampler(Protocol):
    """Contract of a sampler: immutable options, called once per batch of samples."""

    def times(self, schedule: NoiseSchedule) -> Tensor:
        """The time steps, int64 (N,) and descending, at which its N updates begin."""

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        schedule: NoiseSchedule,
        noise: NoiseSource,
        project: Project | None = None,
        begin: int = 0,
    ) -> Iterator[Step]:
        """Make the updates ``begin``, ..., N - 1 and yield each as it is made.

        Args:
            denoise: the model.
            x: the state (B, ...) at ``times(schedule)[begin]``; standard normal for ``begin`` 0.
            schedule: the noise schedule of the model.
            noise: source of the fresh noise.
            project: corrects the state before it is denoised.
            begin: number of updates to leave out, to start from a state that is not all noise.
        """


Progress: TypeAlias = Callable[..., Iterable[Step]]
"""Wraps the iteration, called as ``progress(steps, total=number of updates)`` like tqdm."""


def run_sampler(
    sampler: Sampler,
    denoise: Denoise,
    x: Tensor,
    schedule: NoiseSchedule,
    noise: NoiseSource,
    project: Project | None = None,
    begin: int = 0,
    progress: Progress | None = None,
) -> Tensor:
    """The last state of a sampler, whose arguments these are; ``x`` if no update is left."""
    steps: Iterable[Step] = sampler(denoise, x, schedule, noise, project, begin)
    if progress is not None:
        steps = progress(steps, total=len(sampler.times(schedule)) - begin)
    with constant_weights():
        for step in steps:
            x = step.x
    return x


def same_time(t: int, x: Tensor) -> Tensor:
    """The time step t for every sample of x (B, ...), int64 (B,)."""
    return torch.full((len(x),), t, device=x.device)
