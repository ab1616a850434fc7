from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ldm.evaluation.metrics.reconstruction import (
    PairStatistics,
    masked_psnr,
    psnr,
    split_by_mask,
    ssim,
)


def images(n: int = 4, side: int = 16, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 3, side, side, generator=generator) * 2 - 1


def half(n: int = 4, side: int = 16) -> Tensor:
    mask = torch.zeros(n, 1, side, side)
    mask[..., : side // 2] = 1
    return mask


def distance(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).abs().mean((1, 2, 3), keepdim=True)


def test_each_part_hides_the_other() -> None:
    real, filled, mask = images(), images(seed=1), half()
    inside, outside = split_by_mask(real, filled, mask)
    assert torch.equal(inside[..., :8], filled[..., :8])
    assert torch.equal(inside[..., 8:], real[..., 8:])
    assert torch.equal(outside[..., :8], real[..., :8])
    assert torch.equal(outside[..., 8:], filled[..., 8:])


def test_distances_of_the_parts_add_up_where_the_distance_is_a_mean_over_pixels() -> None:
    real, filled, mask = images(), images(seed=1), half()
    inside, outside = split_by_mask(real, filled, mask)
    whole = distance(real, filled)
    assert torch.allclose(distance(real, inside) + distance(real, outside), whole)


def test_masked_psnr_looks_at_the_hole_alone_whatever_its_size() -> None:
    real = torch.zeros(2, 3, 16, 16)
    filled = real.clone()
    filled[..., :8] = 0.2
    filled[1, :, :, 8:] = 0.7
    small = half()[:2].clone()
    small[:, :, 3:] = 0
    want = 10 * math.log10(4 / 0.04)
    for mask in (half(2), small):
        assert masked_psnr(real, filled, mask).tolist() == pytest.approx([want, want])
    known = masked_psnr(real, filled, 1 - half(2))
    assert known.tolist() == pytest.approx([math.inf, 10 * math.log10(4 / 0.49)])
    everything = torch.ones(2, 1, 16, 16)
    assert torch.allclose(masked_psnr(real, filled, everything), psnr(real, filled))
    assert masked_psnr(real, filled, 1 - everything).isnan().all()


def test_statistics_are_those_of_all_pairs() -> None:
    real, fake, mask = images(6), images(6, seed=1), half(6)
    statistics = PairStatistics(distance)
    for part in range(0, 6, 4):
        rows = slice(part, part + 4)
        statistics.update(real[rows], fake[rows], mask[rows])
    parts = split_by_mask(real, fake, mask)
    want = {
        "psnr": psnr(real, fake),
        "ssim": ssim(real, fake),
        "lpips": distance(real, fake),
        "psnr_inside": masked_psnr(real, fake, mask),
        "psnr_outside": masked_psnr(real, fake, 1 - mask),
        "lpips_inside": distance(real, parts.inside),
        "lpips_outside": distance(real, parts.outside),
    }
    assert statistics.count == 6
    assert statistics.values.keys() == want.keys()
    for name, values in want.items():
        assert torch.allclose(statistics.values[name].values, values.flatten().double()), name


def test_pasted_known_pixels_cost_nothing() -> None:
    real, mask = images(), half()
    pasted = split_by_mask(real, images(seed=1), mask).inside
    values = PairStatistics(distance).update(real, pasted, mask).values
    assert values["lpips_outside"].mean == 0
    assert values["psnr_outside"].mean == math.inf
    assert values["lpips_inside"].mean == values["lpips"].mean > 0


def test_small_images_have_no_ssim_and_nothing_needs_masks_or_networks() -> None:
    values = PairStatistics().update(images(side=16), images(side=16, seed=1)).values
    assert values.keys() == {"psnr", "ssim"}
    statistics = PairStatistics().update(images(side=8), images(side=8, seed=1))
    statistics.update(images(), images(seed=1))
    assert statistics.values.keys() == {"psnr"}


def test_wrong_input() -> None:
    real, mask = images(), half()
    with pytest.raises(ValueError, match="do not fit"):
        split_by_mask(real, real[:2], mask)
    with pytest.raises(ValueError, match="do not fit"):
        masked_psnr(real, real, mask[:, 0])
    with pytest.raises(ValueError, match="other values than 0 and 1"):
        split_by_mask(real, real, mask * 0.5)
