from __future__ import annotations

import math

import pytest
import torch

from ldm.diffusion.conditioning import Conditioning
from ldm.diffusion.sampling import run_sampler
from ldm.diffusion.schedule import NoiseSchedule
from ldm.errors import ConfigError
from ldm.samplers.ddim import DDIM
from ldm.samplers.ddpm import DDPM
from ldm.samplers.dpm_solver import DPMSolver
from ldm.samplers.img2img import first_update, noised
from ldm.samplers.karras import Euler, Heun
from ldm.samplers.noise import SeededNoise
from ldm.samplers.plms import PLMS
from ldm.samplers.unipc import UniPC
from tests.diffusion.golden import build_model
from tests.parity import assert_close, load_case
from tests.samplers.analytic import GeneratorNoise, gaussian_denoiser

SCHEDULE = NoiseSchedule("linear", 1000, 0.0015, 0.0195)


@pytest.mark.parametrize(
    ("strength", "begin"),
    [(1.0, 0), (0.99, 1), (0.96, 1), (0.75, 3), (0.6, 4), (0.5, 5), (0.1, 9), (1e-6, 9)],
)
def test_share_of_the_updates(strength: float, begin: int) -> None:
    assert first_update(DDIM(10), SCHEDULE, strength) == begin


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 10, 50, 1000])
def test_updates_are_counted_as_by_others_and_the_image_is_kept(steps: int) -> None:
    """int(strength x steps), at least one; below strength 1 the start depends on the image."""
    sampler, nearly = DDIM(steps), math.nextafter(1, 0)
    images = torch.zeros(1, 4), torch.ones(1, 4)
    for strength in (nearly, 1 - 1e-9, 1 - 0.4 / steps, 1 - 0.5 / steps, 0.75, 0.29, 1e-9):
        begin = first_update(sampler, SCHEDULE, strength)
        assert steps - begin == max(1, min(int(strength * steps), steps - 1))
        starts = [noised(x0, sampler, SCHEDULE, SeededNoise([3]), strength)[0] for x0 in images]
        assert not torch.equal(*starts), strength
    starts = [noised(x0, sampler, SCHEDULE, SeededNoise([3]), 1.0)[0] for x0 in images]
    assert torch.equal(*starts)


@pytest.mark.parametrize("strength", [0.0, -0.1, 1.01, float("nan")])
def test_strength_out_of_range(strength: float) -> None:
    with pytest.raises(ConfigError, match="strength must be above 0 and at most 1"):
        first_update(DDIM(10), SCHEDULE, strength)


def test_the_start_has_the_level_of_the_first_evaluation() -> None:
    x0 = torch.randn(2, 3, 4, 4)
    x, begin = noised(x0, DDIM(10), SCHEDULE, SeededNoise([1, 2]), 0.5)
    drawn = SeededNoise([1, 2])(x0)
    assert begin == 5
    assert torch.equal(x, SCHEDULE.add_noise(x0, drawn, torch.tensor([401, 401])))
    x, begin = noised(x0, DDIM(10), SCHEDULE, SeededNoise([1, 2]), 1.0)
    assert begin == 0
    assert torch.equal(x, drawn)


SAMPLERS = [
    *(DDIM(20), DDIM(20, eta=1.0), DDPM(), PLMS(20), DPMSolver(20), DPMSolver(20, stochastic=True)),
    *(UniPC(20), UniPC(20, 3), Euler(20), Heun(20)),
]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_every_sampler_can_begin_anywhere(sampler) -> None:  # type: ignore[no-untyped-def]
    """Little strength leaves data nearly as they were; much of it makes them typical."""
    schedule = NoiseSchedule("linear", 50, 0.03, 0.39)
    denoise = gaussian_denoiser(schedule, torch.tensor(0.0), torch.tensor(0.1))
    x0 = torch.full((500, 1), 1.0)  # ten standard deviations away
    ends = []
    for strength in (0.1, 0.5, 1.0):
        noise = GeneratorNoise(0)
        x, begin = noised(x0, sampler, schedule, noise, strength)
        made = list(sampler(denoise, x, schedule, noise, begin=begin))
        assert [step.index for step in made] == [*range(begin, len(sampler.times(schedule)))]
        assert [step.t for step in made] == sampler.times(schedule)[begin:].tolist()
        ends.append(made[-1].x.mean().item())
        again = GeneratorNoise(0)
        x, _ = noised(x0, sampler, schedule, again, strength)
        last = run_sampler(sampler, denoise, x, schedule, again, begin=begin)
        assert torch.equal(last, made[-1].x)
    assert ends[0] > ends[1] > ends[2] - 0.01
    assert ends[-1] == pytest.approx(0, abs=0.02)


def test_nothing_left_to_do() -> None:
    x = torch.ones(1, 2)
    sampler = DDIM(5)
    got = run_sampler(sampler, lambda x, t: (x, x), x, SCHEDULE, torch.zeros_like, begin=5)
    assert got is x


# -- numbers of the original code --------------------------------------------------------------


@torch.no_grad()
def test_golden_stochastic_encode_and_decode() -> None:
    """The later original noises to one level more than that of its first evaluation."""
    golden = load_case("ldm_uncond_samplers")
    model = build_model(golden, golden.config["diffusion"])
    grid = (torch.arange(0, 1000, 1000 // 6) + 1).flip(0)  # 7 steps where 6 were asked for
    sampler = DDIM(len(grid), spacing=lambda steps, schedule: grid)
    ascending = grid.flip(0)
    x0, noise = golden.inputs["img2img.x0"], golden.inputs["img2img.noise"]
    encoded = model.schedule.add_noise(x0, noise, ascending[4].repeat(2))
    assert_close(encoded, golden.outputs["img2img.encoded"])
    begin = len(grid) - 4
    denoise = model.denoise(Conditioning())
    decoded = run_sampler(sampler, denoise, encoded, model.schedule, torch.zeros_like, begin=begin)
    assert_close(decoded, golden.outputs["img2img.decoded"])


@torch.no_grad()
def test_golden_subset_of_the_steps() -> None:
    golden = load_case("ldm_uncond_samplers")
    model = build_model(golden, golden.config["diffusion"])
    grid = (torch.arange(0, 1000, 1000 // 6) + 1).flip(0)
    sampler = DDIM(len(grid), spacing=lambda steps, schedule: grid)
    begin = len(grid) - len(golden.outputs["ddim_subset.t_calls"])
    start, denoise = golden.inputs["ddim_subset.x_T"], model.denoise(Conditioning())
    steps = list(sampler(denoise, start, model.schedule, torch.zeros_like, begin=begin))
    assert [step.t for step in steps] == golden.outputs["ddim_subset.t_calls"].tolist()
    assert_close(steps[-1].x, golden.outputs["ddim_subset.x"])
