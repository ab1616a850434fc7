"""Whole trajectories beside the schedulers of diffusers, on the same time steps.

Where they differ, and so are given ours or theirs: their "leading" steps of DPM-Solver and UniPC
count one step more; their Karras grids evaluate the denoiser at rounded time steps but step from
the noise levels before rounding, while here the level is that of the time step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ldm.diffusion.sampling import Denoise, Sampler
from ldm.diffusion.schedule import NoiseSchedule
from ldm.samplers.ddim import DDIM
from ldm.samplers.dpm_solver import DPMSolver
from ldm.samplers.karras import Euler, Heun
from ldm.samplers.plms import PLMS
from ldm.samplers.timesteps import TimeGrid, descending_times
from ldm.samplers.unipc import UniPC
from tests.samplers.analytic import GeneratorNoise

diffusers = pytest.importorskip("diffusers")

SCHEDULE = NoiseSchedule("linear", 1000, 0.0015, 0.0195)
BETAS = SCHEDULE.betas.double().numpy()
WIDTHS = torch.tensor([0.2, 0.6, 1.0])


def denoise(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Not affine in x, and fast in t."""
    alpha, sigma = SCHEDULE.alpha(t, x), SCHEDULE.sigma(t, x)
    x0 = torch.tanh(alpha * x / (alpha**2 * WIDTHS + sigma**2))
    return x0, (x - alpha * x0) / sigma


def start() -> Tensor:
    return torch.randn(5, 3, generator=torch.Generator().manual_seed(0))


def theirs(other: Any, noise: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """The loop of a pipeline."""
    x = start() * other.init_noise_sigma
    options = {} if noise is None else {"variance_noise": noise}
    for t in other.timesteps:
        scaled = other.scale_model_input(x, t)
        _, eps = denoise(scaled, torch.full((len(x),), int(t)))
        drawn = {key: draw(x) for key, draw in options.items()}
        x = other.step(eps, t, x, **drawn).prev_sample
    return x


def ours(sampler: Sampler, model: Denoise = denoise) -> Tensor:
    *_, last = sampler(model, start(), SCHEDULE, GeneratorNoise(1))
    return last.x


def own(times: Tensor) -> Callable[[int, NoiseSchedule], Tensor]:
    return lambda steps, schedule: times.long()


def close(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("steps", [4, 20, 50])
def test_plms(steps: int) -> None:
    other = diffusers.PNDMScheduler(trained_betas=BETAS, skip_prk_steps=True, steps_offset=1)
    other.set_timesteps(steps)
    assert len(other.timesteps) == steps + 1
    close(ours(PLMS(steps)), theirs(other))


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("steps", [5, 20])
@pytest.mark.parametrize("spacing", ["uniform", "trailing", "karras"])
def test_dpm_solver(spacing: str, steps: int, stochastic: bool, order: int) -> None:
    times = descending_times(spacing, steps, SCHEDULE)
    other = diffusers.DPMSolverMultistepScheduler(
        trained_betas=BETAS,
        solver_order=order,
        algorithm_type="sde-dpmsolver++" if stochastic else "dpmsolver++",
        final_sigmas_type="sigma_min" if spacing == "uniform" else "zero",
    )
    other.set_timesteps(timesteps=times.tolist())
    want = theirs(other, GeneratorNoise(1) if stochastic else None)
    close(ours(DPMSolver(steps, order, spacing, stochastic)), want)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("steps", [1, 2, 4, 20])
def test_unipc(steps: int, order: int) -> None:
    other = diffusers.UniPCMultistepScheduler(
        trained_betas=BETAS, solver_order=order, final_sigmas_type="sigma_min"
    )
    other.set_timesteps(steps)
    close(ours(UniPC(steps, order, own(other.timesteps))), theirs(other))


@pytest.mark.parametrize("steps", [4, 10, 28])  # 999 is a multiple of one less
def test_euler(steps: int) -> None:
    other = diffusers.EulerDiscreteScheduler(trained_betas=BETAS)
    other.set_timesteps(steps)
    grid = own(other.timesteps)
    close(ours(Euler(steps, grid)), theirs(other))
    torch.testing.assert_close(ours(Euler(steps, grid)), ours(DDIM(steps, spacing=grid)))


@pytest.mark.parametrize("steps", [4, 10, 28])
def test_heun(steps: int) -> None:
    other = diffusers.HeunDiscreteScheduler(trained_betas=BETAS)
    other.set_timesteps(steps)
    times = other.timesteps.unique().flip(0)  # theirs name most of them twice
    close(ours(Heun(steps, own(times))), theirs(other))


@pytest.mark.parametrize("steps", [4, 10, 28])
def test_euler_ancestral_is_ddim_with_eta_1(steps: int) -> None:
    other = diffusers.EulerAncestralDiscreteScheduler(trained_betas=BETAS)
    other.set_timesteps(steps)
    x, noise = start() * other.init_noise_sigma, torch.Generator().manual_seed(1)
    for t in other.timesteps:
        _, eps = denoise(other.scale_model_input(x, t), torch.full((len(x),), int(t)))
        x = other.step(eps, t, x, generator=noise).prev_sample
    close(ours(DDIM(steps, eta=1.0, spacing=own(other.timesteps))), x)


@pytest.mark.parametrize("steps", [3, 7, 20, 30, 400, 700])
def test_strided_steps_are_those_of_stable_diffusion(steps: int) -> None:
    options = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
    other = diffusers.DDIMScheduler(trained_betas=BETAS, **options)
    other.set_timesteps(steps)
    close(ours(DDIM(steps, spacing="strided")), theirs(other))


@pytest.mark.parametrize("steps", [3, 20, 30])
@pytest.mark.parametrize("clean", [True, False])
def test_a_grid_of_ones_own_says_where_it_ends(steps: int, clean: bool) -> None:
    """Stable Diffusion's Euler ends on clean data, its DDIM at the level of t = 0."""
    ends = "zero" if clean else "sigma_min"
    options = {"timestep_spacing": "leading", "steps_offset": 1, "final_sigmas_type": ends}
    other = diffusers.EulerDiscreteScheduler(trained_betas=BETAS, **options)
    other.set_timesteps(steps)
    times = other.timesteps.int().tolist()
    want = theirs(other)  # its x is divided by alpha, which is 1 in clean data
    want = want if clean else want * SCHEDULE.exact_alphas_cumprod[0].sqrt()
    close(ours(Euler(steps, TimeGrid(times, clean))), want)
    strided = descending_times("strided", steps, SCHEDULE)
    close(ours(Euler(steps, TimeGrid(lambda _n, _s: strided, clean))), want)
