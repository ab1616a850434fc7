"""What happens on the way: states of the forward and of the reverse process at chosen times."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor

from ldm.diffusion.sampling import Denoise, NoiseSource, Sampler, same_time
from ldm.diffusion.schedule import NoiseSchedule


class Moment(NamedTuple):
    """A state of the reverse process.

    Attributes:
        t: time step.
        x: the state (B, ...) at t, before its update.
        x0: the estimate of the clean data from it.
    """

    t: int
    x: Tensor
    x0: Tensor


def evenly_spaced(count: int, total: int) -> list[int]:
    """At most ``count`` of the numbers 0, ..., total - 1, evenly spaced from the first to the last.

    Raises:
        ValueError: one of both is below 1.
    """
    if count < 1 or total < 1:
        raise ValueError(f"cannot choose {count} of {total}")
    count = min(count, total)
    return [round(i * (total - 1) / max(count - 1, 1)) for i in range(count)]


def noised(x0: Tensor, noise: Tensor, times: Collection[int], schedule: NoiseSchedule) -> Tensor:
    """States of q(x_t | x_0) of clean data (B, ...) at n times, under the same noise: (n, B, ...).

    The marginals are right; the states of one row are not independent, which shows one picture
    disappearing instead of n different ones.
    """
    return torch.stack([schedule.add_noise(x0, noise, same_time(t, x0)) for t in times])


def trace(
    sampler: Sampler,
    denoise: Denoise,
    x: Tensor,
    schedule: NoiseSchedule,
    noise: NoiseSource,
    indices: Collection[int],
) -> tuple[list[Moment], Tensor]:
    """Run a sampler from x (B, ...) and keep what it sees at some of its updates.

    Args:
        sampler: the sampler.
        denoise: the model.
        x: the start.
        schedule: the noise schedule.
        noise: source of fresh noise.
        indices: numbers of the updates that are kept.

    Returns:
        The moments in the order of sampling, and the last state.
    """
    moments = []
    for step in sampler(denoise, x, schedule, noise):
        if step.index in indices:
            moments.append(Moment(step.t, x, step.x0))
        x = step.x
    return moments, x


def log_snr(times: Collection[int], schedule: NoiseSchedule) -> list[float]:
    """Natural logarithm of the signal-to-noise ratio alpha^2 / sigma^2 at time steps."""
    values = schedule.exact_alphas_cumprod[list(times)]
    ratios: list[float] = (values / (1 - values)).log().tolist()
    return ratios
