"""The probability flow as an equation d(x / alpha) = eps d(sigma / alpha) (Karras et al. 2022).

Solved by Euler's method, which is DDIM, and by Heun's (algorithm 1 there).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from ldm.diffusion.sampling import Denoise, NoiseSource, Project, Step, same_time
from ldm.diffusion.schedule import NoiseSchedule
from ldm.samplers.ddim import DDIM
from ldm.samplers.timesteps import Level, SpacedSampler, Spacing


def euler_step(x: Tensor, slope: Tensor, level: Level, target: Level) -> Tensor:
    """Follow d(x / alpha) = eps d(sigma / alpha) from x at one level, eps = ``slope``, to another.

    For a slope that does not belong to x. (One that does comes with x0, and target.alpha x0 +
    target.sigma eps is the same step, precise also where alpha is tiny.)
    """
    shrink = target.alpha / level.alpha
    return shrink * x + (target.sigma - shrink * level.sigma) * slope


@dataclass(frozen=True)
class Euler(SpacedSampler):
    """First order, one evaluation an update; equal to DDIM with eta 0 on the same time steps.

    In x / alpha and s = sigma / alpha the probability flow is d(x / alpha) = eps ds (Karras et al.
    2022, eq. 4), and a step along it,

        x_next / alpha_next = x / alpha + (s_next - s) eps,

    is the update of DDIM: alpha_next x0 + sigma_next eps.

    Attributes:
        steps: number of denoiser evaluations, kept exactly.
        spacing: which time steps, see ``descending_times``.
    """

    steps: int = 50
    spacing: Spacing = "karras"

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
        return DDIM(self.steps, spacing=self.spacing)(denoise, x, schedule, noise, project, begin)


@dataclass(frozen=True)
class Heun(SpacedSampler):
    """Second order: every update but the last averages the slopes at both of its ends.

    In x / alpha and s = sigma / alpha the slope is eps. Euler's guess with the first one,

        guess = alpha_next x0 + sigma_next eps,

    is corrected by (s_next - s) / 2 times the difference of both. As the guess is made of either
    pair of estimates, that is alpha_next (s / s_next - 1) / 2 times the difference of the x0, which
    keeps its digits where alpha is tiny.

    Attributes:
        steps: number of updates, N; they take 2 N - 1 evaluations of the denoiser.
        spacing: which time steps, see ``descending_times``.
    """

    steps: int = 25
    spacing: Spacing = "karras"

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
        for index in range(begin, len(times)):
            t, here, there = times[index], levels[index], levels[index + 1]
            if project is not None:
                x = project(x, t)
            x0, eps = denoise(x, same_time(t, x))
            x = there.alpha * x0 + there.sigma * eps
            if index + 1 < len(times):
                later, _ = denoise(x, same_time(times[index + 1], x))
                weight = 0.5 * math.expm1(there.log_snr - here.log_snr)
                x = x + there.alpha * weight * (later - x0)
            yield Step(index, t, x, x0)
