"""Pseudo linear multi-step sampling (Liu et al. 2022): slopes remembered, fourth order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from ldm.diffusion.sampling import Denoise, NoiseSource, Project, Step, same_time
from ldm.diffusion.schedule import NoiseSchedule
from ldm.errors import ConfigError
from ldm.samplers.timesteps import SpacedSampler, Spacing

EQUAL_STEPS = ("uniform", "strided", "leading", "trailing", "linspace")
ADAMS_BASHFORTH = {
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


@dataclass(frozen=True)
class PLMS(SpacedSampler):
    """Adams-Bashforth combinations of the last four estimates of the noise, in a DDIM update.

    The first update has no history: it averages the estimates at both of its ends (where there is
    no further time step, at its own twice), as published. So N updates take N + 1 evaluations.

    Attributes:
        steps: number of updates, kept exactly.
        spacing: which time steps, see ``descending_times``. The combinations hold for equal steps
            of t only: "uniform", "strided", "leading", "trailing", "linspace", or one's own.
    """

    steps: int = 50
    spacing: Spacing = "uniform"

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.spacing, str) and self.spacing not in EQUAL_STEPS:
            raise ConfigError(
                f"PLMS takes equal steps of t, not spacing {self.spacing!r}: choose "
                f"{', '.join(EQUAL_STEPS)}, or another sampler"
            )

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
        times, levels = self.grid(schedule)
        slopes: list[Tensor] = []  # the newest first
        for index in range(begin, len(times)):
            t, here, there = times[index], levels[index], levels[index + 1]
            if project is not None:
                x = project(x, t)
            x0, eps = denoise(x, same_time(t, x))
            slopes = [eps, *slopes[:3]]
            if len(slopes) == 1:
                following = times[min(index + 1, len(times) - 1)]
                guess = there.alpha * x0 + there.sigma * eps
                _, end_slope = denoise(guess, same_time(following, x))
                slope = 0.5 * (eps + end_slope)
            else:
                slope = _combine(slopes)
            x0 = (x - here.sigma * slope) / here.alpha
            x = there.alpha * x0 + there.sigma * slope
            yield Step(index, t, x, x0)


def _combine(slopes: list[Tensor]) -> Tensor:
    weights = ADAMS_BASHFORTH[len(slopes)]
    total = weights[0] * slopes[0]
    for weight, slope in zip(weights[1:], slopes[1:], strict=True):
        total = total + weight * slope
    return total
