"""DPM-Solver++ (Lu et al. 2022, "DPM-Solver++"): exponential integration of the estimate of x0."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from ldm.diffusion.sampling import Denoise, NoiseSource, Project, Step, same_time
from ldm.diffusion.schedule import NoiseSchedule
from ldm.errors import ConfigError
from ldm.samplers.timesteps import SpacedSampler, Spacing

FEW_STEPS = 15
"""With fewer, the last update to a noisy level is of first order: extrapolation overshoots there.
"""


@dataclass(frozen=True)
class DPMSolver(SpacedSampler):
    """Multi-step DPM-Solver++ (2M), and its stochastic form (SDE-DPM-Solver++ 2M).

    With lambda = log(alpha / sigma), h its increase and D the estimate of x0 in the middle of the
    step, extrapolated from the last two:

        x_next = sigma_next / sigma x + alpha_next (1 - exp(-h)) D

    and, stochastic,

        x_next = sigma_next / sigma exp(-h) x + alpha_next (1 - exp(-2h)) D
                 + sigma_next sqrt(1 - exp(-2h)) noise.

    Attributes:
        steps: number of denoiser evaluations, kept exactly.
        order: 2, or 1 (the deterministic form is then DDIM).
        spacing: which time steps, see ``descending_times``.
        stochastic: solve the stochastic equation, with fresh noise in every update.
    """

    steps: int = 20
    order: int = 2
    spacing: Spacing = "logsnr"
    stochastic: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order not in (1, 2):
            raise ConfigError(f"DPM-Solver++: order must be 1 or 2, got {self.order}")

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        schedule: NoiseSchedule,
        noise: NoiseSource,
        project: Project | None = None,
        begin: int = 0,
    ) -> Iterator[Step]:
        """See ``Sampler``; noise is drawn in the stochastic form only."""
        times, levels = self.grid(schedule)
        previous: Tensor | None = None
        for index in range(begin, len(times)):
            t, here, there = times[index], levels[index], levels[index + 1]
            if project is not None:
                x = project(x, t)
            x0, _ = denoise(x, same_time(t, x))
            h = there.log_snr - here.log_snr  # inf where the update leads to clean data
            middle = x0
            if previous is not None and not self._first_order(index, len(times), h):
                ratio = (here.log_snr - levels[index - 1].log_snr) / h
                middle = x0 + (x0 - previous) / (2 * ratio)
            decay = math.exp(-h) if self.stochastic else 1.0
            reach = -math.expm1(-2 * h if self.stochastic else -h)
            x = there.sigma / here.sigma * decay * x + there.alpha * reach * middle
            if self.stochastic and there.sigma > 0:
                x = x + there.sigma * math.sqrt(reach) * noise(x)
            previous = x0
            yield Step(index, t, x, x0)

    def _first_order(self, index: int, total: int, h: float) -> bool:
        last = index == total - 1
        return self.order == 1 or math.isinf(h) or (last and total < FEW_STEPS)
