from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from ldm.diffusion.schedule import NoiseSchedule
from ldm.errors import ConfigError
from ldm.samplers.ddim import DDIM, ddim_sigma
from ldm.samplers.noise import SeededNoise
from ldm.samplers.timesteps import CLEAN, Level, descending_times, noise_levels
from tests.parity import load_case
from tests.samplers.analytic import GeneratorNoise, gaussian_denoiser, sampled_moments

CASE = load_case("ddim_schedules")
TAGS = [tag for tag, config in CASE.config.items() if isinstance(config, dict)]
OFF = {"u7_eta1", "u3_T20", "q50_eta0"}  # the original takes a step too many, or one twice


def close(got: torch.Tensor, want: torch.Tensor) -> None:
    torch.testing.assert_close(got.float(), want.float(), rtol=1e-5, atol=0)


def sigmas(levels: list[Level], eta: float) -> torch.Tensor:
    """The noise of every update, ascending in time as the original lists it."""
    return torch.tensor([ddim_sigma(*pair, eta) for pair in pairwise(levels)]).flip(0)


@pytest.mark.parametrize("tag", TAGS)
def test_published_steps_and_coefficients(tag: str) -> None:
    config = CASE.config[tag]
    want = {
        k.removeprefix(f"{tag}."): v for k, v in CASE.outputs.items() if k.startswith(f"{tag}.")
    }
    schedule = NoiseSchedule("linear", config["T"], 0.0015, 0.0195)
    if tag not in OFF:
        times = descending_times(config["discretize"], config["steps"], schedule)
        assert torch.equal(times.flip(0), want["timesteps"])
    levels = noise_levels(schedule, want["timesteps"].flip(0))
    squares = torch.tensor([level.alpha**2 for level in levels]).flip(0)
    close(squares[1:], want["alphas"])
    close(squares[:-1], want["alphas_prev"])
    close(sigmas(levels, config["eta"]), want["sigmas"])
    close(torch.tensor([v.sigma for v in levels[:-1]]).flip(0), want["sqrt_one_minus_alphas"])
    if "sigmas_original_steps" in want:
        every = noise_levels(schedule, torch.arange(config["T"]).flip(0))
        close(sigmas(every, config["eta"]), want["sigmas_original_steps"])


@pytest.mark.parametrize("steps", range(1, 51))
def test_the_sampler_takes_as_many_steps(steps: int) -> None:
    schedule = NoiseSchedule(timesteps=50)
    calls = []

    def denoise(x: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert t.shape == (len(x),)
        calls.append(int(t[0]))
        return torch.zeros_like(x), x

    sampler = DDIM(steps, eta=0.5)
    done = list(sampler(denoise, torch.ones(2, 2), schedule, GeneratorNoise(0)))
    assert len(calls) == len(done) == len(sampler.times(schedule)) == steps
    assert calls == sorted(set(calls), reverse=True) == [s.t for s in done]
    assert [s.index for s in done] == list(range(steps))
    assert all(s.x.isfinite().all() for s in done)


def test_eta_1_on_all_steps_has_the_variance_of_ddpm() -> None:
    schedule = NoiseSchedule("linear", 40, 0.001, 0.05)
    every = noise_levels(schedule, descending_times("uniform", 40, schedule))
    assert every[-1] == CLEAN
    torch.testing.assert_close(sigmas(every, 1.0) ** 2, schedule.posterior_variance)


def test_all_steps_end_on_clean_data() -> None:
    schedule = NoiseSchedule(timesteps=20)
    truth = torch.randn(3, 2)

    def knows(x: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return truth, schedule.eps_from_x0(x, truth, t)

    x = torch.randn(3, 2)
    *_, last = DDIM(20, eta=1.0)(knows, x, schedule, GeneratorNoise(0))
    torch.testing.assert_close(last.x, truth)
    # fewer steps end, as published, on the noise level of t = 0
    *_, last = DDIM(5)(knows, x, schedule, GeneratorNoise(0))
    eps = schedule.eps_from_x0(x, truth, torch.full((3,), 17))
    want = schedule.add_noise(truth, eps, torch.zeros(3, dtype=torch.int64))
    torch.testing.assert_close(last.x, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("std", [0.3, 0.9])
def test_reaches_a_normal_distribution(eta: float, std: float) -> None:
    schedule = NoiseSchedule("linear", 1000, 0.0015, 0.0195)
    errors = []
    for steps in (60, 120):
        mean, spread = sampled_moments(DDIM(steps, eta), schedule, 0.6, std)
        assert mean == pytest.approx(0.6, abs=0.02)
        errors.append(abs(spread / std - 1))
    assert errors[1] < 0.13
    assert errors[1] < 0.7 * errors[0]  # the error shrinks with the step


def test_samples_do_not_depend_on_the_batch() -> None:
    schedule = NoiseSchedule(timesteps=100)
    denoise = gaussian_denoiser(schedule, torch.tensor(0.2), torch.tensor(0.5))

    def sample(seeds: list[int]) -> torch.Tensor:
        noise = SeededNoise(seeds)
        start = noise(torch.empty(len(seeds), 3, 2, 2))
        *_, last = DDIM(10, eta=0.7)(denoise, start, schedule, noise)
        return last.x

    together = sample([5, 6, 7])
    assert torch.equal(together[1:2], sample([6]))
    assert torch.equal(together[[2, 0]], sample([7, 5]))
    assert not torch.equal(together[0], together[1])


def test_against_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    schedule = NoiseSchedule("linear", 1000, 0.0015, 0.0195)
    other = diffusers.DDIMScheduler(
        trained_betas=schedule.betas.numpy(),
        clip_sample=False,
        set_alpha_to_one=False,
        timestep_spacing="leading",
        steps_offset=1,
    )
    other.set_timesteps(20)
    denoise = gaussian_denoiser(schedule, torch.tensor(0.3), torch.tensor(0.5))
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    noise, again = GeneratorNoise(1), GeneratorNoise(1)
    steps = list(DDIM(20, eta=0.6)(denoise, x, schedule, noise))
    assert [s.t for s in steps] == other.timesteps.tolist()
    for step in steps:
        _, eps = denoise(x, torch.full((4,), step.t))
        x = other.step(eps, step.t, x, eta=0.6, variance_noise=again(x)).prev_sample
        torch.testing.assert_close(step.x, x, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [{"steps": 0}, {"steps": -3}, {"eta": 1.2}, {"eta": -0.1}, {"spacing": "cubic"}],
)
def test_errors(options: dict) -> None:
    with pytest.raises(ConfigError):
        DDIM(**options)


def test_more_steps_than_the_schedule_has() -> None:
    schedule = NoiseSchedule(timesteps=50)
    steps = DDIM(51)(lambda x, t: (x, x), torch.zeros(1, 2), schedule, SeededNoise([0]))
    with pytest.raises(ConfigError, match="51 sampling steps: choose 1 to 50"):
        next(steps)
