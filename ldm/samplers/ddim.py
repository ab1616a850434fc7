"""Denoising diffusion implicit models (Song et al. 2021): a few, possibly deterministic steps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from ldm.diffusion.sampling import Denoise, NoiseSource, Project, Step, same_time
from ldm.diffusion.schedule import NoiseSchedule
from ldm.errors import ConfigError
from ldm.samplers.timesteps import Level, SpacedSampler, Spacing


def ddim_sigma(level: Level, target: Level, eta: float) -> float:
    """Scale of the fresh noise in the update from a noise level to a lower one.

    eta sqrt((1 - a_prev) / (1 - a)) sqrt(1 - a / a_prev) with a = alpha^2 (Song et al., eq. 16).
    """
    kept = level.alpha / target.alpha
    return eta * target.sigma / level.sigma * math.sqrt(1 - kept**2)


@dataclass(frozen=True)
class DDIM(SpacedSampler):
    """x_prev = alpha_prev x0 + sqrt(1 - a_prev - sigma^2) eps + sigma noise.

    Attributes:
        steps: number of denoiser evaluations, kept exactly.
        eta: 0 is deterministic; 1 has the variance of ancestral sampling.
        spacing: which time steps, see ``descending_times``.
        temperature: factor of the noise.
    """

    steps: int = 50
    eta: float = 0.0
    spacing: Spacing = "uniform"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ConfigError(f"DDIM: eta must lie in [0, 1], got {self.eta}")
        super().__post_init__()

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        schedule: NoiseSchedule,
        noise: NoiseSource,
        project: Project | None = None,
        begin: int = 0,
    ) -> Iterator[Step]:
        """See ``Sampler``; no noise is drawn where it has no effect."""
        times, levels = self.grid(schedule)
        for index in range(begin, len(times)):
            t, target = times[index], levels[index + 1]
            if project is not None:
                x = project(x, t)
            x0, eps = denoise(x, same_time(t, x))
            sigma = ddim_sigma(levels[index], target, self.eta)
            x = target.alpha * x0 + math.sqrt(max(target.sigma**2 - sigma**2, 0)) * eps
            if sigma > 0 and self.temperature > 0:
                x = x + sigma * self.temperature * noise(x)
            yield Step(index, t, x, x0)
