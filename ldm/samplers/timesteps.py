"""At which of the T time steps a sampler evaluates the denoiser.

The grid decides more than the solver does: the published uniform one spends its steps where little
happens, while the ones of Karras et al. and of equal log-SNR crowd towards clean data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ldm.diffusion.schedule import NoiseSchedule
from ldm.errors import ConfigError

KARRAS_RHO = 7
ENDING_CLEAN = ("trailing", "linspace", "karras", "logsnr")

Times: TypeAlias = Tensor | Sequence[int]
Spacing: TypeAlias = str | Callable[[int, NoiseSchedule], Times]
"""A name of ``SPACINGS``, or ``f(steps, schedule) -> times``, int64 (steps,), descending; a
``TimeGrid`` is one that also says where sampling ends."""


@dataclass(frozen=True)
class TimeGrid:
    """A spacing of one's own that says on which noise level sampling ends.

    Attributes:
        times: the time steps from noise to data, as many as the sampler has steps; or
            ``f(steps, schedule)``, which gives them.
        clean: end on clean data, as the samplers of k-diffusion and diffusers' Euler do; False: at
            the level of t = 0, as the published grids. (An update at t = 0 always ends on clean
            data.)
    """

    times: Sequence[int] | Callable[[int, NoiseSchedule], Times]
    clean: bool = True

    def __call__(self, steps: int, schedule: NoiseSchedule) -> Times:
        """The time steps."""
        return self.times(steps, schedule) if callable(self.times) else self.times


class Level(NamedTuple):
    """A noise level: x = alpha x0 + sigma noise."""

    alpha: float
    sigma: float

    @property
    def log_snr(self) -> float:
        """Half the logarithm of the signal-to-noise ratio, log(alpha / sigma); inf if clean."""
        return math.log(self.alpha / self.sigma) if self.sigma > 0 else math.inf


CLEAN = Level(1.0, 0.0)


def descending_times(spacing: Spacing, steps: int, schedule: NoiseSchedule) -> Tensor:
    """Exactly ``steps`` distinct time steps, int64 (steps,), from noise to data.

    - "uniform": floor(i T / steps) + 1, the published choice wherever that gives ``steps`` distinct
      steps below T. (The published code takes another number, or fails, unless steps divides T.)
    - "strided": i floor(T / steps) + 1, the same where steps divides T: "leading" of diffusers with
      ``steps_offset`` 1, as the schedulers of Stable Diffusion and exported pipelines have it.
    - "leading": floor(i T / steps): one time step earlier, so that t = 0 is the last and sampling
      ends on clean data.
    - "quad": floor of squares between 0 and 0.8 T, + 1, as published.
    - "trailing": every (T / steps)-th, counted back from the noisiest, T - 1.
    - "linspace": equal steps from T - 1 to 0, to the nearest time steps.
    - "karras": sigma / alpha falls like the 7th power of a ramp from t = T - 1 to t = 0 (Karras et
      al. 2022, eq. 5), to the nearest time steps.
    - "logsnr": from t = T - 1 to t = 0 in equal steps of the logarithmic signal-to-noise ratio.

    Where two steps coincide they are pushed apart; steps = T takes every time step.

    Raises:
        ConfigError: for an unknown spacing, a number of steps outside 1..T, or a spacing of the
            user's that does not give such steps.
    """
    check_spacing(spacing, steps)
    total = schedule.timesteps
    if steps > total:
        raise ConfigError(f"cannot take {steps} sampling steps: choose 1 to {total}")
    if not isinstance(spacing, str):
        return _checked(spacing(steps, schedule), steps, total)
    if steps == total:
        return torch.arange(total).flip(0)
    ascending = SPACINGS[spacing](steps, schedule)[::-1].copy()
    return torch.from_numpy(_apart(ascending, total)).flip(0)


class SpacedSampler:
    """What samplers share that choose their time steps: dataclasses with ``steps`` and ``spacing``.

    Attributes:
        steps: number of updates, kept exactly.
        spacing: which time steps, see ``descending_times``.
    """

    steps: int
    spacing: Spacing

    def __post_init__(self) -> None:
        check_spacing(self.spacing, self.steps)

    def times(self, schedule: NoiseSchedule) -> Tensor:
        """The chosen time steps, int64 (steps,), descending."""
        return descending_times(self.spacing, self.steps, schedule)

    def grid(self, schedule: NoiseSchedule) -> tuple[list[int], list[Level]]:
        """The time steps and their noise levels, followed by the one at which sampling ends."""
        times = self.times(schedule)
        return times.tolist(), noise_levels(schedule, times, self.spacing)


def check_spacing(spacing: Spacing, steps: int) -> None:
    """Refuse, before there is a schedule, what no schedule would make right.

    Raises:
        ConfigError: the name is unknown, it is no spacing, or there are less than 1 steps.
    """
    if not (isinstance(spacing, str) or callable(spacing)):
        raise ConfigError(
            f"spacing: expected one of {', '.join(SPACINGS)}, or a TimeGrid, got {spacing!r}"
        )
    if isinstance(spacing, str) and spacing not in SPACINGS:
        raise ConfigError(f"unknown spacing {spacing!r}: choose one of {', '.join(SPACINGS)}")
    if steps < 1:
        raise ConfigError(f"cannot take {steps} sampling steps: choose at least 1")


def noise_levels(
    schedule: NoiseSchedule, times: Tensor, spacing: Spacing = "uniform"
) -> list[Level]:
    """The noise levels at descending ``times`` (N,) and, last, the one at which sampling ends.

    "trailing", "linspace", "karras" and "logsnr" end on clean data, and a ``TimeGrid`` where it
    says. The published grids, and functions of one's own, end at the level of t = 0; only where
    t = 0 is itself evaluated does its update lead to clean data.
    """
    clean = spacing.clean if isinstance(spacing, TimeGrid) else spacing in ENDING_CLEAN
    alphas_cumprod = schedule.exact_alphas_cumprod
    levels = [Level(math.sqrt(a), math.sqrt(1 - a)) for a in alphas_cumprod[times].tolist()]
    if times[-1] == 0 or clean:
        return [*levels, CLEAN]
    end = float(alphas_cumprod[0])
    return [*levels, Level(math.sqrt(end), math.sqrt(1 - end))]


def _uniform(steps: int, schedule: NoiseSchedule) -> np.ndarray:
    return (np.arange(steps) * schedule.timesteps // steps + 1)[::-1]


def _strided(steps: int, schedule: NoiseSchedule) -> np.ndarray:
    return np.arange(steps)[::-1] * (schedule.timesteps // steps) + 1


def _leading(steps: int, schedule: NoiseSchedule) -> np.ndarray:
    return (np.arange(steps) * schedule.timesteps // steps)[::-1]


def _quad(steps: int, schedule: NoiseSchedule) -> np.ndarray:
    roots = np.linspace(0, np.sqrt(0.8 * schedule.timesteps), steps)
    return ((roots**2).astype(np.int64) + 1)[::-1]


def _trailing(steps: int, schedule: NoiseSchedule) -> np.ndarray:
    total = schedule.timesteps
    return np.round(total - np.arange(steps) * total / steps).astype(np.int64) - 1


def _linspace(steps: int, schedule: NoiseSchedule) -> np.ndarray:
    return np.linspace(schedule.timesteps - 1, 0, steps).round().astype(np.int64)


def _karras(steps: int, schedule: NoiseSchedule) -> np.ndarray:
    log_sigmas = _log_sigmas(schedule)
    noisy, clean = np.exp(log_sigmas[-1] / KARRAS_RHO), np.exp(log_sigmas[0] / KARRAS_RHO)
    return _nearest(np.log(np.linspace(noisy, clean, steps)) * KARRAS_RHO, log_sigmas)


def _logsnr(steps: int, schedule: NoiseSchedule) -> np.ndarray:
    log_sigmas = _log_sigmas(schedule)
    return _nearest(np.linspace(log_sigmas[-1], log_sigmas[0], steps), log_sigmas)


SPACINGS: dict[str, Callable[[int, NoiseSchedule], np.ndarray]] = {
    "uniform": _uniform,
    "strided": _strided,
    "leading": _leading,
    "quad": _quad,
    "trailing": _trailing,
    "linspace": _linspace,
    "karras": _karras,
    "logsnr": _logsnr,
}


def _log_sigmas(schedule: NoiseSchedule) -> np.ndarray:
    """log(sigma / alpha) of every time step, ascending."""
    abar = schedule.exact_alphas_cumprod.numpy()
    return np.asarray(0.5 * (np.log1p(-abar) - np.log(abar)))


def _nearest(wanted: np.ndarray, log_sigmas: np.ndarray) -> np.ndarray:
    """The time steps whose log(sigma / alpha) lie nearest."""
    times = np.interp(wanted, log_sigmas, np.arange(len(log_sigmas)))
    return times.round().astype(np.int64)


def _apart(ascending: np.ndarray, total: int) -> np.ndarray:
    """The nearest times that are at least one apart and below ``total``."""
    index = np.arange(len(ascending))
    apart = np.maximum.accumulate(ascending - index) + index
    return np.asarray(np.minimum(apart, total - len(index) + index))


def _checked(given: Times, steps: int, total: int) -> Tensor:
    message = (
        f"the given spacing must give {steps} integer time steps, "
        f"descending within {total - 1} to 0"
    )
    try:
        times = given if isinstance(given, Tensor) else torch.tensor(list(given))
    except (TypeError, ValueError, RuntimeError) as error:  # no list, or no numbers of 64 bits
        raise ConfigError(f"{message}, got {str(given)[:200]}") from error
    whole = times.numel() > 0 and not torch.is_floating_point(times) and times.dtype != torch.bool
    right = whole and times.shape == (steps,)
    times = times.long().cpu() if right else times
    if not right or times[0] >= total or times[-1] < 0 or (times.diff() >= 0).any():
        raise ConfigError(f"{message}, got {times.tolist()}")
    return times
