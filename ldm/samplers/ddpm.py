"""Ancestral sampling (Ho et al. 2020, algorithm 2): every time step, the exact posterior."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.diffusion.sampling import Denoise, NoiseSource, Project, Step, same_time
from ldm.diffusion.schedule import NoiseSchedule


@dataclass(frozen=True)
class DDPM:
    """x_{t-1} ~ N(posterior mean, posterior variance) for t = T - 1, ..., 0.

    Attributes:
        clip: limit the estimates of x0 to [-1, 1]: right for pixels, not for latents.
        temperature: factor of the noise.
    """

    clip: bool = False
    temperature: float = 1.0

    def times(self, schedule: NoiseSchedule) -> Tensor:
        """All time steps, descending."""
        return torch.arange(schedule.timesteps).flip(0)

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        schedule: NoiseSchedule,
        noise: NoiseSource,
        project: Project | None = None,
        begin: int = 0,
    ) -> Iterator[Step]:
        """See ``Sampler``; no noise is drawn for the last step."""
        for index in range(begin, schedule.timesteps):
            step = schedule.timesteps - 1 - index
            if project is not None:
                x = project(x, step)
            t = same_time(step, x)
            x0, _ = denoise(x, t)
            if self.clip:
                x0 = x0.clamp(-1, 1)
            x, _, logvar = schedule.posterior(x0, x, t)
            if step > 0:
                x = x + self.temperature * (0.5 * logvar).exp() * noise(x)
            yield Step(index, step, x, x0)
