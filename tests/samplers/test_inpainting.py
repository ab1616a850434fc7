from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ldm.diffusion.conditioning import Conditioning
from ldm.diffusion.sampling import Project, run_sampler
from ldm.diffusion.schedule import NoiseSchedule
from ldm.errors import DataError
from ldm.samplers.ddim import DDIM
from ldm.samplers.ddpm import DDPM
from ldm.samplers.dpm_solver import DPMSolver
from ldm.samplers.inpainting import KnownRegion, latent_hole
from ldm.samplers.karras import Euler, Heun
from ldm.samplers.plms import PLMS
from ldm.samplers.unipc import UniPC
from tests.diffusion.golden import RecordedNoise, build_model
from tests.parity import assert_close, load_case
from tests.samplers.analytic import GeneratorNoise


@torch.no_grad()
def test_golden_ddim() -> None:
    golden = load_case("ldm_uncond_samplers")
    model = build_model(golden, golden.config["diffusion"])
    draws = RecordedNoise(golden.inputs["ddim_mask.noise_mask"])
    keep, known = golden.inputs["mask"], golden.inputs["x0_known"]
    project = KnownRegion(known, 1 - keep, model.schedule, draws)
    noise = RecordedNoise(golden.inputs["ddim_mask.noise"])
    start, denoise = golden.inputs["ddim_mask.x_T"], model.denoise(Conditioning())
    steps = list(DDIM(5, eta=0.5)(denoise, start, model.schedule, noise, project))
    assert [step.t for step in steps] == golden.outputs["ddim_mask.t_calls"].tolist()
    states = torch.stack([start, *(step.x for step in steps)])
    assert_close(states, golden.outputs["ddim_mask.x_inter"])
    assert_close(steps[-1].x, golden.outputs["ddim_mask.x"])


@torch.no_grad()
def test_golden_ancestral() -> None:
    """The original's ancestral loop blends after the update of t, at the level of t: one late."""
    golden = load_case("ldm_uncond_samplers")
    model = build_model(golden, golden.config["ancestral"])
    draws = RecordedNoise(golden.inputs["anc_mask.noise_mask"])
    region = KnownRegion(
        golden.inputs["x0_known"], 1 - golden.inputs["mask"], model.schedule, draws
    )
    last = model.schedule.timesteps - 1
    late: Project = lambda x, t: x if t == last else region(x, t + 1)  # noqa: E731
    noise = RecordedNoise(golden.inputs["anc_mask.noise"])
    start, denoise = golden.inputs["anc_mask.x_T"], model.denoise(Conditioning())
    x = run_sampler(DDPM(), denoise, start, model.schedule, noise, late)
    assert_close(region(x, 0), golden.outputs["anc_mask.x"])


# -- two correlated numbers, one of them known -------------------------------------------------

CORRELATION = 0.8
COVARIANCE = torch.tensor([[1.0, CORRELATION], [CORRELATION, 1.0]])
SCHEDULE = NoiseSchedule("linear", 1000, 0.0015, 0.0195)


def denoise(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """E[x0 | x_t] of a normal distribution with that covariance."""
    alpha, sigma = float(SCHEDULE.alpha(t, x)[0]), float(SCHEDULE.sigma(t, x)[0])
    gain = alpha * COVARIANCE @ torch.linalg.inv(alpha**2 * COVARIANCE + sigma**2 * torch.eye(2))
    x0 = x @ gain.T
    return x0, (x - alpha * x0) / sigma


DETERMINISTIC = [DDIM(50), PLMS(50), DPMSolver(50), UniPC(50), Euler(50), Heun(50)]
STOCHASTIC = [DDIM(50, eta=1.0), DPMSolver(50, stochastic=True), DDPM()]


@pytest.mark.parametrize("sampler", [*DETERMINISTIC, *STOCHASTIC], ids=repr)
def test_the_filling_follows_what_is_known(sampler) -> None:  # type: ignore[no-untyped-def]
    """The mean given the neighbour is 0.8 times it; without the hook it would be 0.

    It is not reached: the known part is mostly noise at first, and what has been decided then is
    revised by the noise of stochastic samplers only.
    """
    known = torch.tensor([[1.5, 0.0]]).expand(4000, 2)
    hole = torch.tensor([[0.0, 1.0]])
    noise = GeneratorNoise(0)
    region = KnownRegion(known, hole, SCHEDULE, noise)
    x = run_sampler(sampler, denoise, noise(known), SCHEDULE, noise, region)
    filled = region.paste(x)
    assert torch.equal(filled[:, 0], known[:, 0])
    assert torch.equal(filled[:, 1], x[:, 1])
    share = filled[:, 1].mean().item() / (CORRELATION * 1.5)
    low, high = (0.4, 0.5) if sampler in DETERMINISTIC else (0.6, 0.7)
    assert low < share < high
    free = run_sampler(sampler, denoise, noise(known), SCHEDULE, noise)
    assert abs(free[:, 1].mean().item()) < 0.1


def test_the_hole_in_latents() -> None:
    mask = torch.zeros(1, 1, 8, 12)
    mask[0, 0, 3, 4] = 1  # a single pixel
    hole = latent_hole(mask, 4)
    assert hole.shape == (1, 1, 2, 3)
    assert hole.nonzero().tolist() == [[0, 0, 0, 1]]
    with pytest.raises(DataError, match="mask of 8 x 12 pixels: sides must be multiples of 8"):
        latent_hole(mask, 8)
