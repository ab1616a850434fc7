from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from ldm.autoencoders.base import Deterministic, DiagonalGaussian
from ldm.diffusion.latent_diffusion import latent_moments, scale_from_moments
from ldm.evaluation.latent_statistics import LatentStatistics, draw, kl_map


def moments(n: int = 7, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 2 * channels, 5, 4, generator=generator) * 2 + 0.5


def gathered(z: Tensor, sizes: list[int], kl: Tensor | None = None) -> LatentStatistics:
    statistics = LatentStatistics(z.shape[1])
    parts = kl.split(sizes) if kl is not None else [None] * len(sizes)
    for batch, part in zip(z.split(sizes), parts, strict=True):
        statistics.update(batch, part)
    return statistics


@pytest.mark.parametrize("sizes", [[7], [1] * 7, [3, 4]])
def test_statistics_are_those_of_all_latents_at_once(sizes: list[int]) -> None:
    posterior = DiagonalGaussian(moments())
    z = posterior.mean.double()
    flat = z.transpose(0, 1).flatten(1)
    got = gathered(posterior.mean, sizes, kl_map(posterior))
    assert torch.allclose(got.mean, flat.mean(1), rtol=1e-12)
    assert torch.allclose(got.std, flat.std(1), rtol=1e-12)
    assert torch.equal(got.minimum, flat.amin(1))
    assert torch.equal(got.maximum, flat.amax(1))
    assert got.overall_mean == pytest.approx(float(z.mean()), rel=1e-12)
    assert got.overall_std == pytest.approx(float(z.std()), rel=1e-12)
    factor = scale_from_moments(latent_moments([posterior.mean]))
    assert 1 / got.overall_std == pytest.approx(factor, rel=1e-9)
    assert got.images == 7


def test_kl_is_that_of_torch_and_sums_to_the_posteriors() -> None:
    posterior = DiagonalGaussian(moments())
    want = kl_divergence(Normal(posterior.mean.double(), posterior.std.double()), Normal(0.0, 1.0))
    got = kl_map(posterior)
    assert got is not None
    assert torch.allclose(got, want, rtol=1e-5)
    assert torch.allclose(got.sum((1, 2, 3)), posterior.kl().double(), rtol=1e-5)
    statistics = gathered(posterior.mean, [2, 5], got)
    assert statistics.kl is not None
    assert torch.allclose(statistics.kl, got.mean((0, 2, 3)), rtol=1e-12)
    assert kl_map(Deterministic(posterior.mean)) is None
    assert gathered(posterior.mean, [7]).kl is None


def test_noise_depends_on_the_seed_of_the_image_only() -> None:
    whole = draw(DiagonalGaussian(moments()), range(7))
    parts = [
        draw(DiagonalGaussian(part), seeds)
        for part, seeds in ((moments()[:2], (0, 1)), (moments()[2:], range(2, 7)))
    ]
    assert torch.equal(whole, torch.cat(parts))
    posterior = DiagonalGaussian(moments())
    noise = (whole - posterior.mean) / posterior.std
    assert not torch.allclose(noise[0], noise[1])
    assert abs(float(noise.mean())) < 0.2
    assert float(noise.std()) == pytest.approx(1, abs=0.1)
    fixed = Deterministic(posterior.mean)
    assert draw(fixed, range(7)) is fixed.z
    with pytest.raises(ValueError, match="2 seeds for a batch of 7"):
        draw(posterior, range(2))


def test_a_large_mean_does_not_eat_the_deviation() -> None:
    z = torch.randn(50, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    far = gathered(z + 1e6, [5] * 10)
    assert torch.allclose(far.std, gathered(z, [50]).std, rtol=1e-6)


def test_images_that_are_not_finite_are_counted_and_left_out() -> None:
    z = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(1))
    broken = z.clone()
    broken[1, 0, 0, 0] = torch.nan
    broken[3, 1, 2, 2] = torch.inf
    got = gathered(broken, [1, 3], torch.ones_like(z).double())
    assert (got.images, got.nonfinite) == (2, 2)
    assert torch.allclose(got.mean, gathered(z[[0, 2]], [2]).mean)
    assert got.kl is not None
    assert got.kl.tolist() == [1, 1]


def test_wrong_input() -> None:
    with pytest.raises(ValueError, match=r"\(2, 4, 3, 3\) are not \(B, 3, h, w\)"):
        LatentStatistics(3).update(torch.zeros(2, 4, 3, 3))
    with pytest.raises(ValueError, match="two finite latents"):
        _ = LatentStatistics(3).std
