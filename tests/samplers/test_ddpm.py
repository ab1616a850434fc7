from __future__ import annotations

import pytest
import torch

from ldm.diffusion.schedule import NoiseSchedule
from ldm.samplers.ddpm import DDPM
from tests.samplers.analytic import GeneratorNoise, gaussian_denoiser, sampled_moments


@pytest.mark.parametrize("std", [0.3, 0.9])
def test_reaches_a_normal_distribution(std: float) -> None:
    errors = []
    for steps in (100, 200):
        schedule = NoiseSchedule("linear", steps, 1.5 / steps, 19.5 / steps)
        mean, spread = sampled_moments(DDPM(), schedule, 0.6, std)
        assert mean == pytest.approx(0.6, abs=0.02)
        errors.append(abs(spread / std - 1))
    assert errors[1] < 0.13
    assert errors[1] < 0.7 * errors[0]  # the error shrinks with the step


@pytest.mark.parametrize("shape", [(2, 2), (2, 3, 4, 5)])
def test_perfect_knowledge_returns_x0(shape: tuple[int, ...]) -> None:
    schedule = NoiseSchedule(timesteps=30)
    truth = torch.randn(shape)
    noise = GeneratorNoise(3)
    *_, last = DDPM()(lambda x, t: (truth, x), noise(truth), schedule, noise)
    torch.testing.assert_close(last.x, truth)


def test_clip_limits_the_estimate() -> None:
    schedule = NoiseSchedule(timesteps=5)
    noise = GeneratorNoise(0)
    for clip, limit in ((True, 1.0), (False, 3.0)):
        *_, last = DDPM(clip)(
            lambda x, t: (torch.full_like(x, 3.0), x), torch.zeros(1, 2), schedule, noise
        )
        assert last.x0.max() == limit
        torch.testing.assert_close(last.x, last.x0)


def test_no_noise_in_the_last_step() -> None:
    """Not even where the variance at t = 0 is not 0."""
    schedule = NoiseSchedule(timesteps=5, v_posterior=1.0)
    assert schedule.posterior_variance[0] > 0
    steps = DDPM()(lambda x, t: (x * 0 + 1, x), torch.zeros(3, 2), schedule, torch.randn_like)
    *_, last = steps
    assert torch.equal(last.x, torch.ones(3, 2))


def test_temperature_0_is_deterministic() -> None:
    schedule = NoiseSchedule(timesteps=20)
    denoise = gaussian_denoiser(schedule, torch.tensor(0.0), torch.tensor(1.0))
    ends = []
    for seed in (1, 2):
        *_, last = DDPM(temperature=0.0)(denoise, torch.ones(1, 2), schedule, GeneratorNoise(seed))
        ends.append(last.x)
    assert torch.equal(*ends)


def test_against_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    schedule = NoiseSchedule("linear", 50, 0.002, 0.1)
    other = diffusers.DDPMScheduler(
        trained_betas=schedule.betas.numpy(), num_train_timesteps=50, clip_sample=False
    )
    denoise = gaussian_denoiser(schedule, torch.tensor(0.3), torch.tensor(0.5))
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    steps = list(DDPM()(denoise, x, schedule, GeneratorNoise(1)))
    generator = torch.Generator().manual_seed(1)
    for step in steps:
        _, eps = denoise(x, torch.full((4,), step.t))
        x = other.step(eps, step.t, x, generator=generator).prev_sample
        torch.testing.assert_close(step.x, x, rtol=1e-4, atol=1e-5)
