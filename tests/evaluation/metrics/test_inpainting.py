from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ldm.data.inpainting.masks import lama_masks
from ldm.data.scenes.dataset import SceneDataset
from ldm.evaluation.metrics.inpainting import GradientJump, gradient_jump, hole_error, mean_fill


def square_hole(n: int = 1) -> Tensor:
    mask = torch.zeros(n, 1, 8, 8)
    mask[:, :, 2:6, 2:6] = 1
    return mask


def noise(n: int, side: int = 8) -> Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_the_error_is_that_of_the_hole_in_units_of_0_to_1() -> None:
    mask = square_hole(2)
    real = torch.zeros(2, 3, 8, 8)
    wrong_outside = torch.where(mask == 1, real, torch.ones(()))
    assert hole_error(real, wrong_outside, mask).tolist() == [0, 0]
    filled = torch.where(mask == 1, torch.tensor([0.5, -1.0]).view(2, 1, 1, 1), real)
    assert hole_error(real, filled, mask).tolist() == [0.25, 0.5]
    assert hole_error(real, filled * 3, mask).tolist() == [0.5, 0.5]  # clamped
    half = real.clone()
    half[:, :, 2:4, 2:6] = 1
    assert hole_error(real, half, mask) == pytest.approx(torch.full((2,), 0.5 * math.sqrt(0.5)))


def test_the_error_is_that_of_numpy_for_holes_of_any_form() -> None:
    real, image = noise(4), noise(8)[4:]
    mask = (torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(1)) < 0.3).float()
    expected = [
        np.sqrt(np.mean(((r - i).numpy()[:, m[0].numpy() == 1] / 2) ** 2))
        for r, i, m in zip(real, image, mask, strict=True)
    ]
    assert hole_error(real, image, mask).numpy() == pytest.approx(np.array(expected), rel=1e-5)


def test_mean_fill_takes_the_known_pixels_of_each_image() -> None:
    real, mask = noise(3), square_hole(3)
    filled = mean_fill(real, mask)
    known = mask[:1, 0] == 0
    for image, original in zip(filled, real, strict=True):
        assert torch.equal(image[:, known[0]], original[:, known[0]])
        mean = original[:, known[0]].mean(1)
        assert torch.allclose(image[:, 2:6, 2:6], mean.view(3, 1, 1).expand(3, 4, 4))
    assert torch.equal(mean_fill(real, mask.bool()), filled)


def test_jumps_of_closed_form() -> None:
    mask = square_hole()
    ramp = torch.linspace(-1, 1, 8).expand(1, 3, 8, 8)
    step = 1 / 7
    # Half of the pairs are vertical and equal: 8 of 16 at the border, 12 of 24 in the interior.
    jump = gradient_jump(ramp, mask)
    assert jump.border == pytest.approx(step / 2)
    assert jump.interior == pytest.approx(step / 2)
    assert jump.ratio == pytest.approx(1)
    brighter = torch.where(mask == 1, ramp * 0 + 1, ramp * 0)
    jump = gradient_jump(brighter, mask)
    assert (jump.border.item(), jump.interior.item()) == (0.5, 0)
    assert jump.ratio == math.inf


def test_pairs_outside_the_hole_do_not_count() -> None:
    mask = square_hole()
    image = torch.zeros(1, 3, 8, 8)
    image[:, :, 0, :] = 1
    image[:, :, :, 7] = -1
    jump = gradient_jump(image, mask)
    assert (jump.border.item(), jump.interior.item()) == (0, 0)


def test_images_without_a_kind_of_pair_are_left_out_of_the_ratio() -> None:
    mask = square_hole(3)
    mask[0] = 0
    mask[0, 0, 4, 4] = 1
    mask[1] = 1
    jump = gradient_jump(noise(3), mask)
    assert jump.interior.isnan().tolist() == [True, False, False]
    assert jump.border.isnan().tolist() == [False, True, False]
    expected = jump.border[[0, 2]].mean() / jump.interior[1:].mean()
    assert jump.ratio == pytest.approx(expected.item())


def test_real_scenes_have_no_seam_and_pasted_ones_have() -> None:
    dataset = SceneDataset(32, 200, split="test")
    real = torch.stack([dataset[i]["image"] for i in range(200)])
    generator, masks = np.random.default_rng(0), lama_masks("thin-256")
    mask = torch.stack([torch.from_numpy(masks(32, 32, generator))[None] for _ in range(200)])
    assert 0.85 < gradient_jump(real, mask).ratio < 1.15
    pasted = torch.where(mask, real.roll(1, 0), real)
    assert gradient_jump(pasted, mask).ratio > 5
    filled = mean_fill(real, mask)
    assert gradient_jump(filled, mask).ratio > 100
    assert hole_error(real, filled, mask).mean() < 0.8 * hole_error(real, pasted, mask).mean()


def test_batches_can_be_joined() -> None:
    images, mask = noise(6), square_hole(6)
    parts = [gradient_jump(images[i : i + 2], mask[i : i + 2]) for i in (0, 2, 4)]
    joined = GradientJump(*(torch.cat(values) for values in zip(*parts, strict=True)))
    assert joined.ratio == pytest.approx(gradient_jump(images, mask).ratio)


def test_bad_masks_are_refused() -> None:
    real, mask = noise(2), square_hole(2)
    with pytest.raises(ValueError, match="mask"):
        hole_error(real, real, mask[:, 0])
    with pytest.raises(ValueError, match="other values"):
        gradient_jump(real, mask * 2 - 1)
    with pytest.raises(ValueError, match="do not fit"):
        hole_error(real, real[:1], mask)
    mask[1] = 0
    with pytest.raises(ValueError, match="image 1 of the batch has no hole"):
        mean_fill(real, mask)
