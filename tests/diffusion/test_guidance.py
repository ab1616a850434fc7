from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ldm.diffusion.guidance import (
    ClassifierFreeGuidance,
    ClassifierGuidance,
    RescaledGuidance,
)
from ldm.diffusion.prediction import X0, Eps, Prediction, V
from ldm.diffusion.schedule import NoiseSchedule
from ldm.samplers.ddim import DDIM
from tests.diffusion.mixture import TwoGaussians
from tests.parity import assert_close

SCHEDULE = NoiseSchedule(timesteps=100)


def both(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Noise estimates 0.1 x (first half, unconditional) and 0.5 x (second half)."""
    n = len(x) // 2
    eps = torch.cat([0.1 * x[:n], 0.5 * x[n:]])
    return SCHEDULE.x0_from_eps(x, eps, t), eps


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_formula_and_consistency(scale: float) -> None:
    x, t = torch.randn(3, 2), torch.tensor([5, 50, 99])
    x0, eps = ClassifierFreeGuidance(both, scale)(x, t)
    assert_close(eps, (0.1 + scale * 0.4) * x, rtol=1e-5)
    assert_close(x0, SCHEDULE.x0_from_eps(x, eps, t), rtol=1e-4)


def test_one_pass_with_the_unconditional_half_first() -> None:
    seen = []

    def record(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        seen.append((x, t))
        return x, x

    x, t = torch.randn(2, 3), torch.tensor([1, 7])
    ClassifierFreeGuidance(record, 2.0)(x, t)
    ((x_seen, t_seen),) = seen
    assert torch.equal(x_seen, torch.cat([x, x]))
    assert t_seen.tolist() == [1, 7, 1, 7]


@pytest.mark.parametrize("prediction", [Eps(), X0(), V()], ids=repr)
@pytest.mark.parametrize("rescale", [0.3, 1.0])
def test_rescaled_outputs(prediction: Prediction, rescale: float) -> None:
    """By the formula, of what the network predicts, sample by sample."""
    generator = torch.Generator().manual_seed(0)
    x, t = torch.randn(3, 2, 4, generator=generator), torch.tensor([5, 50, 99])
    outputs = torch.randn(6, 2, 4, generator=generator)

    def denoise_both(doubled: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        return prediction.to_x0_eps(outputs, doubled, times, SCHEDULE)

    got = RescaledGuidance(denoise_both, 7.5, rescale, prediction, SCHEDULE)(x, t)
    uncond, cond = outputs.chunk(2)
    want = uncond + 7.5 * (cond - uncond)
    shrunk = torch.stack([w * c.std() / w.std() for w, c in zip(want, cond, strict=True)])
    want = rescale * shrunk + (1 - rescale) * want
    for value, other in zip(got, prediction.to_x0_eps(want, x, t, SCHEDULE), strict=True):
        assert_close(value, other, rtol=1e-4)


@pytest.mark.parametrize("prediction", [Eps(), X0(), V()], ids=repr)
def test_outputs_without_spread_are_not_rescaled(prediction: Prediction) -> None:
    """An untrained network says 0 everywhere."""
    x, t = torch.randn(2, 2, 4), torch.tensor([5, 50])

    def denoise_both(doubled: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        return prediction.to_x0_eps(torch.zeros_like(doubled), doubled, times, SCHEDULE)

    got = RescaledGuidance(denoise_both, 7.5, 0.7, prediction, SCHEDULE)(x, t)
    for value in got:
        assert value.isfinite().all()


# -- by a classifier --------------------------------------------------------------------------

SLOW = NoiseSchedule(timesteps=1000, start=0.0015, end=0.0195)
EXACT = TwoGaussians(SLOW)


def towards(y: int) -> Callable[[Tensor, Tensor], Tensor]:
    """grad log p(y | x_t) by Bayes' rule, in closed form."""
    return lambda x, t: EXACT.class_score(x, t)[:, y] - EXACT.score(x, t)


def points(n: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = 1.5 * torch.randn(n, 2, 1, 1, generator=generator)
    return x, torch.randint(1000, (n,), generator=generator)


def share(scale: float, y: int = 1, steps: int = 100) -> tuple[float, Tensor]:
    """Share of class y among 2000 guided samples, and the samples."""
    denoise = ClassifierGuidance(EXACT.denoise, towards(y), scale, SLOW)
    start = torch.randn(2000, 2, 1, 1, generator=torch.Generator().manual_seed(0))
    *_, last = DDIM(steps=steps)(denoise, start, SLOW, torch.zeros_like)
    at_zero = torch.zeros(2000, dtype=torch.long)
    return (EXACT(last.x, at_zero).argmax(1) == y).float().mean().item(), last.x


@pytest.mark.parametrize("y", [0, 1])
def test_scale_1_gives_the_exact_conditional_score(y: int) -> None:
    x, t = points(64)
    x0, eps = ClassifierGuidance(EXACT.denoise, towards(y), 1.0, SLOW)(x, t)
    assert_close(eps, -SLOW.sigma(t, x) * EXACT.class_score(x, t)[:, y], rtol=1e-5)
    assert_close(x0, EXACT.class_mean(x, t, y), rtol=1e-3)


def test_the_sign_is_adms() -> None:
    """The share of the class rises with the scale; with the sign printed in the paper it falls."""
    shares = [share(scale)[0] for scale in (-0.3, 0.0, 0.3, 1.0)]
    assert shares == sorted(shares)
    assert shares[0] < 0.2
    assert shares[1] == pytest.approx(0.3, abs=0.04)
    assert shares[2] > 0.4
    assert shares[3] > 0.98


def test_samples_at_scale_1_have_the_distribution_of_the_class() -> None:
    _, samples = share(1.0, steps=400)
    assert_close(samples.flatten(1).mean(0), EXACT.mean[1], rtol=0.03)
    assert samples.flatten(1).std(0).tolist() == pytest.approx([0.3, 0.3], rel=0.07)


def test_a_large_scale_sharpens() -> None:
    wide, narrow = (share(scale, y=0)[1].var(0).sum() for scale in (1.0, 5.0))
    assert narrow < 0.8 * wide


def test_scale_0_is_off() -> None:
    def never(x: Tensor, t: Tensor) -> Tensor:
        raise AssertionError("no gradient is needed at scale 0")

    x, t = points(4)
    for got, want in zip(
        ClassifierGuidance(EXACT.denoise, never, 0.0, SLOW)(x, t), EXACT.denoise(x, t), strict=True
    ):
        assert torch.equal(got, want)


def test_it_wraps_classifier_free_guidance() -> None:
    x, t = torch.randn(3, 2), torch.tensor([5, 50, 99])
    free = ClassifierFreeGuidance(both, 3.0)
    x0, eps = ClassifierGuidance(free, lambda x, t: x**2, 2.0, SCHEDULE)(x, t)
    assert_close(eps, 1.3 * x - 2 * SCHEDULE.sigma(t, x) * x**2, rtol=1e-5)
    assert_close(x0, SCHEDULE.x0_from_eps(x, eps, t), rtol=1e-5)
