from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.data.transforms import Framing, to_tensor


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
    ],
)
def test_bad_options(options: dict, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        Framing(**{"height": 32, "width": 32, **options})
