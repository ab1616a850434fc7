"""Ancestral sampling (Ho et al. 2020, algorithm 2): every time step, the exact posterior."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.diffusion.sampling import Denoise, NoiseSource, Project, Step
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

    def num_steps(self, schedule: NoiseSchedule) -> int:
        """All steps of the schedule."""
        return schedule.timesteps

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        schedule: NoiseSchedule,
        noise: NoiseSource,
        project: Project | None = None,
    ) -> Iterator[Step]:
        """Sample from x (B, ...) ~ N(0, I); no noise is drawn for the last step."""
        for index in range(schedule.timesteps):
            step = schedule.timesteps - 1 - index
            if project is not None:
                x = project(x, step)
            t = torch.full((len(x),), step, device=x.device)
            x0, _ = denoise(x, t)
            if self.clip:
                x0 = x0.clamp(-1, 1)
            x, _, logvar = schedule.posterior(x0, x, t)
            if step > 0:
                x = x + self.temperature * (0.5 * logvar).exp() * noise(x)
            yield Step(index, step, x, x0)
