from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ldm.evaluation.metrics.reconstruction import (
    PerImage,
    ReconstructionStatistics,
    psnr,
    resampled,
    saturated,
    ssim,
)


def pair(n: int = 9, side: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n, 3, side, side, generator=generator) * 2 - 1
    return x, x + torch.randn(x.shape, generator=generator) * 0.3


def distance(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).abs().mean((1, 2, 3), keepdim=True)


@pytest.mark.parametrize("size", [1, 4, 9])
def test_batches_of_any_size_give_the_numbers_of_all_images(size: int) -> None:
    x, y = pair()
    statistics = ReconstructionStatistics(4, distance)
    for a, b in zip(x.split(size), y.split(size), strict=True):
        assert torch.equal(statistics.update(a, b), b.clamp(-1, 1))
    y = y.clamp(-1, 1)
    assert statistics.images == 9
    for got, want in (
        (statistics.psnr, psnr(x, y)),
        (statistics.ssim, ssim(x, y)),
        (statistics.lpips, distance(x, y).flatten()),
        (statistics.resampled_psnr, psnr(x, resampled(x, 4))),
        (statistics.saturated, saturated(y)),
        (statistics.saturated_originals, saturated(x)),
    ):
        assert got is not None
        assert got.mean == pytest.approx(float(want.double().mean()), rel=1e-6)
        assert got.std == pytest.approx(float(want.double().std()), rel=1e-5)
        assert got.median == pytest.approx(float(want.median()), rel=1e-6)


def test_what_does_not_exist_is_none() -> None:
    x, y = pair(side=8)
    statistics = ReconstructionStatistics(1)
    statistics.update(x, y)
    assert statistics.ssim is None
    assert statistics.lpips is None
    assert statistics.resampled_psnr is None


def test_deviation_where_there_is_none() -> None:
    values = PerImage()
    with pytest.raises(ValueError, match="no image"):
        _ = values.mean
    values.add(torch.tensor([3.0]))
    assert (values.mean, values.std) == (3, None)
    values.add(torch.tensor([math.inf, 4.0, 5.0]))
    assert (values.mean, values.std, values.median) == (math.inf, None, 4)


def test_nonfinite_reconstructions_are_counted_and_measured_as_grey() -> None:
    x, y = pair(3)
    y[1, 0, 0, 0] = torch.nan
    y[2, 1] = torch.inf
    statistics = ReconstructionStatistics(2)
    shown = statistics.update(x, y)
    assert statistics.nonfinite == 2
    assert shown[1, 0, 0, 0] == 0
    assert (shown[2, 1] == 1).all()
    assert math.isfinite(statistics.psnr.mean)
