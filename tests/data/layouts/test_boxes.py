from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from ldm.data.layouts.boxes import WHOLE, Box, BoxTokenizer
from ldm.errors import ConfigError, DataError

TOKENIZER = BoxTokenizer(300)
BOX = Box(7, 0.25, 0.5, 0.75, 1.0)


def test_published_numbers() -> None:
    assert (TOKENIZER.length, TOKENIZER.none, TOKENIZER.grid) == (92, 8191, 90)
    box = Box(7, 0.1, 0.2, 0.6, 0.9, group=True, depiction=True)
    tokens = TOKENIZER([box])
    assert tokens.dtype == torch.int64
    # class + classes x (1 + 4); round(y 89) 90 + round(x 89), twice
    assert tokens[:3].tolist() == [7 + 300 * 5, 18 * 90 + 9, 80 * 90 + 53]
    assert tokens[3:90].tolist() == [8191] * 87
    assert tokens[90:].tolist() == [0, 89 * 90 + 89]


@pytest.mark.parametrize(
    ("flag", "modifier"), [("group", 1), ("occluded", 2), ("depiction", 4), ("inside", 8)]
)
def test_flags(flag: str, modifier: int) -> None:
    box = dataclasses.replace(BOX, **{flag: True})
    assert TOKENIZER([box])[0] == 7 + 300 * modifier
    assert BoxTokenizer(300, flags=False)([box])[0] == 7


def test_boxes_are_cut_at_the_image_and_stay_in_its_coordinates() -> None:
    tokens = TOKENIZER([Box(0, -0.5, 0.5, 0.5, 1.5)], crop=(0.25, 0.0, 1.0, 1.0))
    assert TOKENIZER.decode(tokens)[0] == [Box(0, 0.0, 45 / 89 - 1 / 89, 44 / 89, 1.0)]
    assert tokens[90:].tolist() == [22, 89 * 90 + 89]


def test_objects_outside_the_crop_are_left_out() -> None:
    left, right = Box(1, 0.0, 0.0, 0.4, 1.0), Box(2, 0.5, 0.0, 1.0, 1.0)
    boxes, crop = TOKENIZER.decode(TOKENIZER([left, right], crop=(0.5, 0.0, 1.0, 1.0)))
    assert [box.class_id for box in boxes] == [2]
    assert crop == pytest.approx((0.5, 0, 1, 1), abs=0.5 / 89 + 1e-9)


def test_mirror_image() -> None:
    boxes, crop = TOKENIZER.decode(TOKENIZER([BOX], (0.0, 0.0, 0.5, 1.0), flip=True))
    mirrored = TOKENIZER.decode(TOKENIZER([BOX]))[0][0]
    assert (boxes[0].x0, boxes[0].x1) == pytest.approx((1 - mirrored.x1, 1 - mirrored.x0))
    assert crop == pytest.approx((0.5, 0, 1, 1), abs=0.5 / 89 + 1e-9)
    left = Box(1, 0.0, 0.0, 0.1, 0.2)
    assert TOKENIZER.decode(TOKENIZER([left], flip=True))[0][0].x1 == 1.0


def test_round_trip_within_half_a_place() -> None:
    rng = np.random.default_rng(0)
    boxes = []
    for _ in range(30):
        (x0, x1), (y0, y1) = np.sort(rng.random(2)), np.sort(rng.random(2))
        flags = (rng.random(4) < 0.5).tolist()
        boxes.append(Box(int(rng.integers(300)), x0, y0, x1, y1, *flags))
    again, crop = TOKENIZER.decode(TOKENIZER(boxes))
    assert crop == WHOLE
    for box, got in zip(boxes, again, strict=True):
        a, b = dataclasses.astuple(box), dataclasses.astuple(got)
        assert (a[0], a[5:]) == (b[0], b[5:])
        assert a[1:5] == pytest.approx(b[1:5], abs=0.5 / 89 + 1e-9)


def test_shuffling_is_seeded_and_keeps_all() -> None:
    boxes = [Box(i, 0.1, 0.1, 0.2 + i / 100, 0.9) for i in range(10)]
    one, again, other = (
        TOKENIZER.decode(TOKENIZER(boxes, shuffle=np.random.default_rng(seed)))[0]
        for seed in (0, 0, 1)
    )
    ids = [box.class_id for box in one]
    assert ids == [box.class_id for box in again] != [box.class_id for box in other]
    assert sorted(ids) == list(range(10)) != ids
    assert one == sorted(one, key=lambda box: ids.index(box.class_id))


def test_thirty_objects_at_most() -> None:
    boxes = [dataclasses.replace(BOX, class_id=i) for i in range(40)]
    tokens = TOKENIZER(boxes)
    assert tokens.shape == (92,)
    assert [box.class_id for box in TOKENIZER.decode(tokens)[0]] == list(range(30))
    assert TOKENIZER.decode(TOKENIZER([]))[0] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x0": 1.0, "x1": 1.5}, "lies outside the image"),
        ({"y0": -0.5, "y1": 0.0}, "lies outside the image"),
        ({"x0": 0.8}, "has no area: x0 < x1 and y0 < y1 must hold"),
        ({"y1": 0.5}, "has no area"),
        ({"x0": float("nan")}, "has no area"),
        ({"class_id": 300}, "class id 300 of Box.* is outside 0 to 299"),
        ({"class_id": -1}, "class id -1"),
    ],
)
def test_bad_boxes_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        TOKENIZER([dataclasses.replace(BOX, **changes)])


@pytest.mark.parametrize("crop", [(0.5, 0.0, 0.5, 1.0), (0.0, 0.0, 1.1, 1.0), (-0.1, 0, 1, 1)])
def test_bad_crops_are_refused(crop: Any) -> None:
    with pytest.raises(DataError, match=r"crop .* must be"):
        TOKENIZER([BOX], crop)


def test_classes_must_fit_into_the_vocabulary() -> None:
    assert BoxTokenizer(511).none == 8191
    with pytest.raises(ConfigError, match="keep at most 511 classes, or set flags=false"):
        BoxTokenizer(600)
    BoxTokenizer(600, flags=False)
    with pytest.raises(ConfigError, match=r"keep at most 8191 classes$"):
        BoxTokenizer(9000, flags=False)


def test_tokens_of_another_encoding_are_refused() -> None:
    with pytest.raises(DataError, match="expected 92 box tokens"):
        TOKENIZER.decode(torch.zeros(91).long())
    tokens = TOKENIZER([BOX])
    for place, value, message in ((1, 8100, "no place"), (0, 4800, "no object of 300 classes")):
        wrong = tokens.clone()
        wrong[place] = value
        with pytest.raises(DataError, match=message):
            TOKENIZER.decode(wrong)
