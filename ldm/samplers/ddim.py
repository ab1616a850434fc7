"""Denoising diffusion implicit models (Song et al. 2021): a few, possibly deterministic steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ldm.diffusion.sampling import Denoise, NoiseSource, Project, Step
from ldm.diffusion.schedule import NoiseSchedule
from ldm.errors import ConfigError

SPACINGS = ("uniform", "quad")


class Coefficients(NamedTuple):
    """Float64 tables of the update, one entry per step: abar, abar of the target, noise scale."""

    alphas_cumprod: Tensor
    alphas_cumprod_prev: Tensor
    sigma: Tensor


def ddim_timesteps(spacing: str, steps: int, total: int) -> Tensor:
    """Ascending, distinct time steps, int64 (steps,), for any 1 <= steps <= total.

    "uniform" is floor(i total / steps) + 1, "quad" floor of squares between 0 and 0.8 total, + 1:
    the published choices wherever those give ``steps`` distinct steps below ``total``. (The
    published code takes another number of uniform steps, or fails, unless steps divides total.)
    Quadratic steps that would coincide are pushed apart; with steps = total all are taken, from 0.

    Raises:
        ConfigError: for an unknown spacing or a number of steps outside 1..total.
    """
    if spacing not in SPACINGS:
        raise ConfigError(f"unknown spacing {spacing!r}: choose one of {', '.join(SPACINGS)}")
    if not 1 <= steps <= total:
        raise ConfigError(f"cannot take {steps} sampling steps: choose 1 to {total}")
    index = np.arange(steps)
    if steps == total:
        return torch.from_numpy(index)
    if spacing == "uniform":
        return torch.from_numpy(index * total // steps + 1)
    chosen = (np.linspace(0, np.sqrt(0.8 * total), steps) ** 2).astype(np.int64) + 1
    chosen = np.maximum.accumulate(chosen - index) + index  # at least one apart
    chosen = np.minimum(chosen, total - steps + index)  # and below total
    return torch.from_numpy(chosen)


def ddim_coefficients(alphas_cumprod: Tensor, timesteps: Tensor, eta: float) -> Coefficients:
    """Tables of the updates at ascending ``timesteps`` (S,), from abar (T,).

    As published, the last update leads to the noise level of t = 0 and not to clean data; only
    where t = 0 is itself a step does its update lead to clean data.
    sigma = eta sqrt((1 - a_prev) / (1 - a)) sqrt(1 - a / a_prev).
    """
    a = alphas_cumprod.double()[timesteps]
    end = alphas_cumprod.double()[0] if timesteps[0] > 0 else a.new_ones(())
    a_prev = torch.cat([end[None], a[:-1]])
    sigma = eta * ((1 - a_prev) / (1 - a) * (1 - a / a_prev)).sqrt()
    return Coefficients(a, a_prev, sigma)


@dataclass(frozen=True)
class DDIM:
    """x_prev = sqrt(a_prev) x0 + sqrt(1 - a_prev - sigma^2) eps + sigma noise.

    Attributes:
        steps: number of denoiser evaluations, kept exactly.
        eta: 0 is deterministic; 1 has the variance of ancestral sampling.
        spacing: "uniform" or "quad", see ``ddim_timesteps``.
        temperature: factor of the noise.
    """

    steps: int = 50
    eta: float = 0.0
    spacing: str = "uniform"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ConfigError(f"DDIM: eta must lie in [0, 1], got {self.eta}")
        ddim_timesteps(self.spacing, self.steps, max(self.steps, 1))  # check both early

    def num_steps(self, schedule: NoiseSchedule) -> int:
        """The chosen number of steps."""
        return self.steps

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        schedule: NoiseSchedule,
        noise: NoiseSource,
        project: Project | None = None,
    ) -> Iterator[Step]:
        """Sample from x (B, ...) ~ N(0, I); no noise is drawn where it has no effect."""
        timesteps = ddim_timesteps(self.spacing, self.steps, schedule.timesteps)
        tables = ddim_coefficients(schedule.exact_alphas_cumprod, timesteps, self.eta)
        rows = zip(timesteps.tolist(), *(table.tolist() for table in tables), strict=True)
        for index, (step, _, a_prev, sigma) in enumerate(reversed(list(rows))):
            if project is not None:
                x = project(x, step)
            x0, eps = denoise(x, torch.full((len(x),), step, device=x.device))
            x = a_prev**0.5 * x0 + max(1 - a_prev - sigma**2, 0) ** 0.5 * eps
            if sigma > 0 and self.temperature > 0:
                x = x + sigma * self.temperature * noise(x)
            yield Step(index, step, x, x0)
