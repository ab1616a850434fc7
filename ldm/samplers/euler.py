"""Euler's method on the probability flow (Karras et al. 2022): DDIM, written as an equation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from ldm.diffusion.sampling import Denoise, NoiseSource, Project, Step, same_time
from ldm.diffusion.schedule import NoiseSchedule
from ldm.samplers.time_grid import Level, Spacing, check_spacing, descending_times, noise_levels


def euler_step(x: Tensor, slope: Tensor, level: Level, target: Level) -> Tensor:
    """Follow d(x / alpha) = eps d(sigma / alpha) with eps = ``slope`` from one level to another.

    In these variables the probability flow has no other term (Karras et al. 2022, eq. 4), and the
    step is exact where eps does not change.
    """
    shrink = target.alpha / level.alpha
    return shrink * x + (target.sigma - shrink * level.sigma) * slope


@dataclass(frozen=True)
class Euler:
    """First order, one evaluation an update; equal to DDIM with eta 0 on the same time steps.

    Attributes:
        steps: number of denoiser evaluations, kept exactly.
        spacing: which time steps, see ``descending_times``.
    """

    steps: int = 50
    spacing: Spacing = "karras"

    def __post_init__(self) -> None:
        check_spacing(self.spacing, self.steps)

    def times(self, schedule: NoiseSchedule) -> Tensor:
        """The chosen time steps, descending."""
        return descending_times(self.spacing, self.steps, schedule)

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        schedule: NoiseSchedule,
        noise: NoiseSource,
        project: Project | None = None,
        begin: int = 0,
    ) -> Iterator[Step]:
        """See ``Sampler``; no noise is drawn."""
        times = self.times(schedule)
        levels = noise_levels(schedule, times, self.spacing)
        for index in range(begin, len(times)):
            t = int(times[index])
            if project is not None:
                x = project(x, t)
            x0, eps = denoise(x, same_time(t, x))
            x = euler_step(x, eps, levels[index], levels[index + 1])
            yield Step(index, t, x, x0)
