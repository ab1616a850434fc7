"""Errors against the exact solution of the probability flow of a mixture of Gaussians."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import sampler_error
import torch
from gaussian_mixture import Mixture
from torch import Tensor

from ldm.diffusion.sampling import Sampler
from ldm.diffusion.schedule import NoiseSchedule
from ldm.samplers.ddim import DDIM
from ldm.samplers.dpm_solver import DPMSolver
from ldm.samplers.karras import Euler, Heun
from ldm.samplers.plms import EQUAL_STEPS, PLMS
from ldm.samplers.timesteps import descending_times, noise_levels
from ldm.samplers.unipc import UniPC
from tests.samplers.analytic import sampled_moments

MIXTURE = Mixture.random()
PUBLISHED = NoiseSchedule("linear", 1000, 0.0015, 0.0195)
FINE = NoiseSchedule("linear", 20_000, 0.0015 / 20, 0.0195 / 20)
"""So many time steps that rounding to them does not disturb a grid of a few hundred."""


@cache
def start() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(64, 2, dtype=torch.float64, generator=generator)


def silent(like: Tensor) -> Tensor:
    raise AssertionError("a deterministic sampler has drawn noise")


def equal_log_snr(steps: int, schedule: NoiseSchedule) -> Tensor:
    """Steps of equal log-SNR that end at the level of t = 0 without evaluating it."""
    return descending_times("logsnr", steps + 1, schedule)[:-1]


def error_after(sampler: Sampler, updates: int) -> float:
    """RMS error of the state after some of the updates."""
    levels = noise_levels(FINE, sampler.times(FINE))  # up to the last update
    steps = sampler(MIXTURE.denoiser(FINE), start(), FINE, silent)
    state = next(step.x for step in steps if step.index == updates - 1)
    exact = MIXTURE.flow(start().numpy(), levels[0], levels[updates])
    return float(np.sqrt(((state.numpy() - exact) ** 2).mean()))


# The order of UniPC-p is p + 1 with its corrector; its last updates are of lower order, as
# published, which shows at the end. PLMS begins with an average of two slopes: order 2.
@pytest.mark.parametrize(
    ("name", "make", "share", "order"),
    [
        ("DDIM", lambda n: DDIM(n, spacing=equal_log_snr), 1, 1),
        ("Euler", lambda n: Euler(n, equal_log_snr), 1, 1),
        ("DPM-Solver++ 1", lambda n: DPMSolver(n, 1, equal_log_snr), 1, 1),
        ("DPM-Solver++ 2M", lambda n: DPMSolver(n, 2, equal_log_snr), 1, 2),
        ("Heun", lambda n: Heun(n, equal_log_snr), 1, 2),
        ("UniPC-1", lambda n: UniPC(n, 1, equal_log_snr), 3 / 4, 2),
        ("UniPC-2", lambda n: UniPC(n, 2, equal_log_snr), 3 / 4, 3),
        ("UniPC-3", lambda n: UniPC(n, 3, equal_log_snr), 3 / 4, 4),
        ("PLMS", lambda n: PLMS(n, "trailing"), 3 / 4, 2),
    ],
)
def test_order_of_convergence(
    name: str, make: Callable[[int], Sampler], share: float, order: int
) -> None:
    counts = (64, 128, 256)
    errors = [error_after(make(n), int(share * n)) for n in counts]
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert slope == pytest.approx(order, abs=0.3), errors


@cache
def exact(scale: float | None) -> np.ndarray:
    """Where the flow ends on the published schedule, where x at T - 1 is taken as normal."""
    levels = noise_levels(PUBLISHED, torch.tensor([999]))
    return MIXTURE.flow(start().numpy(), levels[0], scale=scale)


def error(sampler: Sampler, scale: float | None = None) -> float:
    """RMS error of the sample."""
    *_, last = sampler(MIXTURE.denoiser(PUBLISHED, scale), start(), PUBLISHED, silent)
    return float(np.sqrt(((last.x.numpy() - exact(scale)) ** 2).mean()))


@pytest.mark.parametrize("scale", [None, 3.0])
def test_dpm_solver_at_20_is_closer_than_ddim_at_100(scale: float | None) -> None:
    best = min(error(DDIM(100, spacing=spacing), scale) for spacing in ("uniform", "karras"))
    assert error(DPMSolver(20), scale) < best


@pytest.mark.parametrize("scale", [None, 3.0])
@pytest.mark.parametrize("make", [DDIM, PLMS, DPMSolver, UniPC, Euler, Heun])
def test_more_steps_are_better(make: Callable[[int], Sampler], scale: float | None) -> None:
    errors = [error(make(n), scale) for n in (10, 20, 50)]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("spacing", ["karras", "logsnr"])
def test_the_stochastic_form_reaches_a_normal_distribution(spacing: str) -> None:
    """Mean and variance without chance, see ``sampled_moments``."""
    errors = []
    for steps in (20, 40, 80):
        sampler = DPMSolver(steps, spacing=spacing, stochastic=True)
        mean, spread = sampled_moments(sampler, PUBLISHED, 0.6, 0.5)
        assert mean == pytest.approx(0.6, abs=1e-3)
        errors.append(abs(spread / 0.5 - 1))
    assert errors[2] < 0.005
    assert errors[2] < errors[0] / 4  # second order


def test_the_flow_is_exact() -> None:
    """The oracle itself: one Gaussian contracts in closed form."""
    one = Mixture(np.ones(1), np.array([[0.5, -1.0]]), np.array([0.3]), np.zeros(1))
    high, low = noise_levels(PUBLISHED, torch.tensor([900, 100]))[:2]
    x = start().numpy()
    widths = [np.hypot(v.alpha * 0.3, v.sigma) for v in (high, low)]
    want = low.alpha * one.means + (x - high.alpha * one.means) * widths[1] / widths[0]
    np.testing.assert_allclose(one.flow(x, high, low), want, atol=1e-8)


@cache
def mixtures(scale: float | None) -> list[sampler_error.Problem]:
    return [sampler_error.Problem(seed, 64, scale) for seed in range(3)]


@pytest.mark.parametrize("scale", [None, 3.0])
@pytest.mark.parametrize("name", list(sampler_error.OURS))
def test_at_least_as_good_as_diffusers(name: str, scale: float | None) -> None:
    """The best of our grids beside the best of theirs, at 10, 20 and 50 evaluations."""
    pytest.importorskip("diffusers")
    problems = mixtures(scale)
    make = sampler_error.OURS[name]
    spacings = EQUAL_STEPS if name == "PLMS" else sampler_error.SPACINGS
    for count in (10, 20, 50):
        ours = min(sampler_error.our_error(make(count, grid), problems) for grid in spacings)
        # the levels of our grids are those of whole time steps, theirs need not be: the same
        # formulas on both differ by up to 3 %, either way
        assert ours < 1.03 * sampler_error.their_error(name, count, problems)
