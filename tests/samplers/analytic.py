"""Denoisers that are known exactly, for data with a normal distribution."""

from __future__ import annotations

import torch
from torch import Tensor

from ldm.diffusion.sampling import Denoise, Sampler
from ldm.diffusion.schedule import NoiseSchedule


def gaussian_denoiser(schedule: NoiseSchedule, mean: Tensor, std: Tensor) -> Denoise:
    """E[x0 | x_t] for x0 ~ N(mean, std^2), the optimum of every training objective."""

    def denoise(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = schedule.alpha(t, x), schedule.sigma(t, x)
        gain = alpha * std**2 / (alpha**2 * std**2 + sigma**2)
        x0 = mean + gain * (x - alpha * mean)
        return x0, schedule.eps_from_x0(x, x0, t)

    return denoise


class GeneratorNoise:
    """One generator for the whole batch: fast for many small samples."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.generator)


def sampled_moments(sampler: Sampler, schedule: NoiseSchedule, mean: float, std: float) -> tuple:
    """Mean and standard deviation of what a sampler makes of the exact denoiser, without chance.

    Everything is affine in the start and in each draw of noise. So sample k of a batch gets a one
    as its k-th random number and zeros otherwise, the last sample gets zeros only (the mean), and
    the variances of all these independent responses add up.
    """
    count = len(sampler.times(schedule)) + 1
    impulses = iter(torch.eye(count + 1)[:count])
    denoise = gaussian_denoiser(schedule, torch.tensor(mean), torch.tensor(std))

    def noise(like: Tensor) -> Tensor:
        return next(impulses).reshape(like.shape)

    start = noise(torch.empty(count + 1, 1))
    *_, last = sampler(denoise, start, schedule, noise)
    base = last.x[-1]
    return base.item(), (last.x[:-1] - base).square().sum().sqrt().item()
