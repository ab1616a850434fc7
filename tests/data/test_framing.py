from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.data.framing import Framing, to_tensor


def draws(seed: int = 0) -> Callable[[], float]:
    return np.random.default_rng(seed).random


def ramp(width: int, height: int) -> Image.Image:
    """Red counts columns, green counts rows."""
    array = np.zeros((height, width, 3), np.uint8)
    array[..., 0], array[..., 1] = np.arange(width)[None], np.arange(height)[:, None]
    return Image.fromarray(array)


def test_an_image_of_the_right_size_is_copied_exactly() -> None:
    image = ramp(33, 32)
    for crop in ("center", "random"):
        framed = np.asarray(Framing(32, 32, crop=crop)(image, draws()))
        left = int(framed[0, 0, 0])
        assert np.array_equal(framed, np.asarray(image)[:, left : left + 32])


def test_center_crop_is_in_the_middle_and_random_crop_reaches_both_ends() -> None:
    image = ramp(100, 20)
    centre = np.asarray(Framing(20, 20)(image, draws()))
    assert centre[0, 0].tolist() == [40, 0, 0]
    uniform = draws()
    lefts = {
        int(np.asarray(Framing(20, 20, crop="random")(image, uniform))[0, 0, 0]) for _ in range(900)
    }
    assert lefts == set(range(81))


def test_resize_covers_the_crop_and_keeps_the_aspect_ratio() -> None:
    image = ramp(200, 100)
    framed = np.asarray(Framing(50, 50)(image, draws())).astype(int)
    assert framed.shape == (50, 50, 3)
    assert abs(framed[25, 25, 0] - 101) <= 2
    assert abs(framed[25, 49, 0] - framed[25, 0, 0] - 98) <= 2
    wide = np.asarray(Framing(20, 80)(image, draws())).astype(int)
    assert abs(wide[0, 79, 0] - wide[0, 0, 0] - 197) <= 4


def test_resize_above_the_crop_cuts_out_a_part() -> None:
    framed = np.asarray(Framing(50, 50, resize=100)(ramp(200, 200), draws())).astype(int)
    assert abs(framed[0, 49, 0] - framed[0, 0, 0] - 98) <= 2


def test_reduction_is_anti_aliased() -> None:
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    framed = np.asarray(Framing(32, 32)(Image.fromarray(stripes), draws()))
    assert np.abs(framed[:, 4:-4].astype(int) - 127).max() <= 3


def test_flip() -> None:
    image = ramp(8, 8)
    mirrored = np.asarray(Framing(8, 8, flip=1.0)(image, draws()))
    assert np.array_equal(mirrored, np.asarray(image)[:, ::-1])
    uniform = draws()
    half = [np.asarray(Framing(8, 8, flip=0.5)(image, uniform))[0, 0, 0] == 7 for _ in range(200)]
    assert 70 < sum(half) < 130


def test_keep_copies_a_crop_of_the_image_and_enlarges_only_what_is_too_small() -> None:
    framing = Framing(20, 30, resize="keep", crop="random")
    image = ramp(100, 50)
    framed = np.asarray(framing(image, draws()))
    left, top = framed[0, 0, :2].tolist()
    assert (left, top) != (0, 0)
    assert np.array_equal(framed, np.asarray(image)[top : top + 20, left : left + 30])
    assert (framing.scale(100, 50), framing.scale(30, 20)) == (1, 1)
    assert framing.scale(15, 40) == 2
    enlarged = np.asarray(framing(ramp(15, 40), draws()))
    assert enlarged.shape == (20, 30, 3)
    assert enlarged[0, -1, 0] == 14


def test_crop_scale_draws_the_side_of_the_crop() -> None:
    """The recipe of the ImageNet first stages: a side of U(0.5, 1) times the shorter one."""
    framing = Framing(8, 8, crop="random", crop_scale=[0.5, 1.0])
    uniform = draws()
    cuts = [framing.cut(60, 40, uniform) for _ in range(2000)]
    assert all(cut.width == pytest.approx(cut.height) for cut in cuts)
    sides = np.array([cut.width for cut in cuts]) / 40
    assert 0.5 <= sides.min() < 0.51
    assert 0.99 < sides.max() <= 1
    assert np.histogram(sides, 5, (0.5, 1))[0].min() > 300
    assert all(cut.left >= 0 and cut.left + cut.width <= 60 for cut in cuts)
    assert all(cut.top >= 0 and cut.top + cut.height <= 40 for cut in cuts)
    assert max(cut.left + cut.width for cut in cuts) > 59
    assert {float(cut.left).is_integer() for cut in cuts if cut.left + cut.width < 59} == {True}


def test_crop_scale_keeps_the_shape_of_the_crop() -> None:
    cut = Framing(10, 20, crop="random", crop_scale=[0.5, 0.5]).cut(100, 80, draws())
    assert (cut.width, cut.height) == (50, 25)


def test_without_crop_scale_the_draws_are_what_they_were() -> None:
    """Runs that began before the option existed must resume with their crops."""
    for options in ({}, {"resize": 24}, {"crop": "random"}, {"crop": "random", "flip": 0.5}):
        uniform = draws(7)
        Framing(16, 16, **options).cut(40, 30, uniform)
        reference = draws(7)
        assert [reference() for _ in range(4)][3] == uniform()
    cut = Framing(20, 20, crop="random").cut(120, 20, lambda: 0.5)
    assert (cut.left, cut.top) == (50, 0)


@pytest.mark.parametrize(
    ("options", "needed"),
    [
        ({}, 48),
        ({"resize": 96}, 96),
        ({"resize": "keep"}, None),
        ({"crop": "random", "crop_scale": [0.5, 1.0]}, 96),
    ],
)
def test_how_far_an_image_may_be_reduced_while_decoding(options: dict, needed: int | None) -> None:
    assert Framing(48, 40, **options).needed == needed


def test_area_is_the_mean_and_nearest_a_choice() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    blocks = np.asarray(image).reshape(16, 4, 16, 4, 3)
    area = np.asarray(Framing(16, 16, interpolation="area")(image, draws())).astype(float)
    assert np.abs(area - blocks.mean((1, 3))).max() < 1
    nearest = np.asarray(Framing(16, 16, interpolation="nearest")(image, draws()))
    assert np.array_equal(nearest, blocks[:, 2, :, 2])
    results = {
        name: np.asarray(Framing(16, 16, interpolation=name)(image, draws())).tobytes()
        for name in ("area", "nearest", "bilinear", "bicubic", "lanczos")
    }
    assert len(set(results.values())) == 5


def test_colours_below_a_clear_alpha_survive_a_crop() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (16, 24, 4), np.uint8)
    framed = Framing(16, 16, crop="center")(Image.fromarray(pixels), draws())
    assert np.array_equal(np.asarray(framed), pixels[:, 4:20])


def test_tensors_of_other_modes() -> None:
    assert to_tensor(Image.new("RGBA", (3, 2), (0, 255, 51, 255))).shape == (4, 2, 3)
    grey = to_tensor(Image.new("L", (3, 2), 51))
    assert grey.shape == (1, 2, 3)
    assert torch.allclose(grey, torch.tensor(-0.6))
    fractions = to_tensor(Image.fromarray(np.array([[-3.0, 51.25, 260.0]], np.float32)))
    assert torch.allclose(fractions, torch.tensor([[[-1.0, 51.25 / 127.5 - 1, 1.0]]]))


def test_tensor_range() -> None:
    image = Image.new("RGB", (3, 2), (0, 255, 51))
    tensor = to_tensor(image)
    assert tensor.shape == (3, 2, 3)
    assert tensor.is_contiguous()
    assert torch.allclose(tensor[:, 0, 0], torch.tensor([-1.0, 1.0, -0.6]))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"height": 0}, "positive"),
        ({"crop": "centre"}, "crop"),
        ({"flip": 2.0}, "flip"),
        ({"resize": 16}, "resize"),
        ({"resize": "none"}, "resize"),
        ({"resize": 64.0}, "resize"),
        ({"interpolation": "cubic"}, "interpolation"),
        ({"crop_scale": [0.5, 1.0]}, "crop=random"),
        ({"crop_scale": [0.5, 1.0], "crop": "random", "resize": 64}, "no resize"),
        ({"crop_scale": [0.0, 1.0], "crop": "random"}, "crop_scale"),
        ({"crop_scale": [0.5], "crop": "random"}, "crop_scale"),
    ],
)
def test_bad_options(options: dict, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        Framing(**{"height": 32, "width": 32, **options})
