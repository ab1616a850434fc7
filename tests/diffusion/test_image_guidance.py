"""Guidance through a decoder: a Gaussian prior, where the guided score is known in closed form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ldm.autoencoders.networks import Architecture
from ldm.autoencoders.quantizer import VectorQuantizer
from ldm.autoencoders.vq import AutoencoderVQ
from ldm.diffusion.guidance import (
    ClassifierFreeGuidance,
    ClassifierGuidance,
    DownsampledL2,
    ImageGuidance,
    Perceptual,
    reduce,
)
from ldm.diffusion.schedule import NoiseSchedule
from ldm.losses.perceptual import LPIPS
from ldm.samplers.ddim import DDIM
from ldm.samplers.dpm_solver import DPMSolver
from ldm.samplers.karras import Heun
from ldm.samplers.plms import PLMS
from ldm.samplers.unipc import UniPC
from tests.parity import load_case

SCHEDULE = NoiseSchedule("linear", 1000, 0.0015, 0.0195)
STD = 0.8


def denoise(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """E[x0 | x_t] for x0 ~ N(0, STD^2 I)."""
    alpha, sigma = SCHEDULE.alpha(t, x), SCHEDULE.sigma(t, x)
    x0 = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * x
    return x0, (x - alpha * x0) / sigma


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def guided(scale: float, target: Tensor, factor: int = 1, **options: bool) -> ImageGuidance:
    likelihood = DownsampledL2(target, factor)
    return ImageGuidance(denoise, lambda z: z, likelihood, scale, SCHEDULE, **options)


@pytest.mark.parametrize("through", [True, False])
@pytest.mark.parametrize("step", [5, 400, 950])
def test_closed_form(step: int, through: bool) -> None:
    """log p = -1/2 |y - k x|^2 with x0 = k x has the gradient k (y - k x)."""
    x, y, t = normal(3, 3, 4, 4), normal(3, 3, 4, 4, seed=1), torch.full((3,), step)
    x0, eps = guided(0.7, y, through_denoiser=through)(x, t)
    free_x0, free_eps = denoise(x, t)
    alpha, sigma = SCHEDULE.alpha(t, x), SCHEDULE.sigma(t, x)
    slope = free_x0 / x if through else 1 / alpha
    want = free_eps - 0.7 * sigma * slope * (y - free_x0)
    torch.testing.assert_close(eps, want, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(x0, SCHEDULE.x0_from_eps(x, want, t), rtol=1e-3, atol=1e-3)


def test_finite_differences_through_a_nonlinear_decoder() -> None:
    torch.manual_seed(0)
    decoder = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 3, 1)).double()
    likelihood = DownsampledL2(normal(1, 3, 2, 2, seed=1).double(), 4)
    x, t = normal(1, 3, 8, 8).double(), torch.tensor([300])
    guide = ImageGuidance(denoise, decoder, likelihood, 1.0, SCHEDULE)
    _, eps = guide(x, t)
    gradient = (denoise(x, t)[1] - eps) / SCHEDULE.sigma(t, x)

    def value(z: Tensor) -> Tensor:
        with torch.no_grad():
            return likelihood(decoder(denoise(z, t)[0])).sum()

    direction = normal(1, 3, 8, 8, seed=2).double()
    step = 1e-5
    numeric = (value(x + step * direction) - value(x - step * direction)) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), numeric, rtol=2e-4, atol=1e-6)
    assert all(parameter.grad is None for parameter in decoder.parameters())


SAMPLERS = [DDIM(30), DDIM(30, eta=1.0), PLMS(30), DPMSolver(30), UniPC(30), Heun(15)]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
@torch.no_grad()
def test_samples_resemble_the_target_where_it_says_something(sampler) -> None:  # type: ignore[no-untyped-def]
    """With every sampler, under no_grad; finer detail than the target's stays free."""
    target = torch.tensor([0.9, -0.9]).repeat(2, 1).reshape(1, 1, 2, 2).expand(1, 3, 2, 2)
    start = normal(64, 3, 8, 8)
    noise = torch.Generator().manual_seed(1)

    def draw(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=noise)

    *_, free = sampler(denoise, start, SCHEDULE, draw)
    *_, pulled = sampler(guided(100.0, target, 4), start, SCHEDULE, draw)
    distances = [(reduce(s.x, 4) - target).square().mean() for s in (free, pulled)]
    assert distances[1] < 0.1 * distances[0]
    detail = pulled.x - nn.functional.interpolate(reduce(pulled.x, 4), scale_factor=4)
    assert detail.std() > 0.6 * STD


def test_it_composes_with_the_other_guidances() -> None:
    x, t, y = normal(2, 3, 4, 4), torch.tensor([100, 800]), normal(2, 3, 4, 4, seed=1)
    both = ClassifierFreeGuidance(lambda x, t: denoise(x, t), 3.0)
    wrapped = ImageGuidance(both, lambda z: z, DownsampledL2(y, 1), 0.5, SCHEDULE)
    for got, want in zip(wrapped(x, t), guided(0.5, y)(x, t), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)  # both halves are the same
    outer = ClassifierGuidance(wrapped, lambda x, t: torch.ones_like(x), 2.0, SCHEDULE)
    _, eps = outer(x, t)
    torch.testing.assert_close(eps, wrapped(x, t)[1] - 2 * SCHEDULE.sigma(t, x))


def test_a_codebook_lets_gradients_through() -> None:
    torch.manual_seed(0)
    small = Architecture(channels=32, channel_mult=(1, 2), num_res_blocks=1, z_channels=3)
    first_stage = AutoencoderVQ(small, 3, VectorQuantizer(32, 3)).eval()
    target = torch.ones(1, 3, 8, 8)
    guide = ImageGuidance(denoise, first_stage.decode, DownsampledL2(target, 2), 1.0, SCHEDULE)
    x, t = normal(1, 3, 8, 8), torch.tensor([50])
    _, eps = guide(x, t)
    assert (eps - denoise(x, t)[1]).abs().max() > 1e-3


def test_perceptual_pulls_features_together() -> None:
    golden = load_case("lpips_thin")
    lpips = LPIPS(widths=golden.config["widths"])
    lpips.load_state_dict(golden.weights)
    target, x = torch.rand(1, 3, 16, 16) * 2 - 1, normal(2, 3, 32, 32)
    likelihood = Perceptual(target, lpips, factor=2)
    distance = lpips(reduce(x, 2), target.expand(2, -1, -1, -1))
    assert torch.equal(likelihood(x), -distance.flatten())
    t = torch.tensor([100, 100])
    guide = ImageGuidance(denoise, lambda z: z, likelihood, 1000.0, SCHEDULE)
    pulled, free = guide(x, t)[0], denoise(x, t)[0]
    gain = likelihood(free + 0.01 * (pulled - free)) - likelihood(free)
    assert (gain > 0).all()


def test_scale_0_is_off_and_costs_nothing() -> None:
    def never(images: Tensor) -> Tensor:
        raise AssertionError

    x, t = normal(1, 3, 4, 4), torch.tensor([5])
    guide = ImageGuidance(denoise, lambda z: z, never, 0.0, SCHEDULE)
    assert torch.equal(guide(x, t)[1], denoise(x, t)[1])


def test_errors() -> None:
    x, t = normal(2, 3, 8, 8), torch.tensor([5, 5])
    with pytest.raises(ValueError, match=r"a target \(1, 3, 2, 2\) with factor 2 is for images"):
        guided(1.0, torch.zeros(1, 3, 2, 2), 2)(x, t)
    guide = ImageGuidance(denoise, lambda z: z, lambda images: images.sum(), 1.0, SCHEDULE)
    with pytest.raises(ValueError, match=r"of 2 images must be \(2,\), got \(\)"):
        guide(x, t)
