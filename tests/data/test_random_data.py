from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from ldm.data.random_data import RandomData
from ldm.errors import DataError

FIELDS: dict[str, dict[str, Any]] = {
    "image": {"kind": "pixels", "size": [16, 24]},
    "class_label": {"kind": "ids", "below": 3},
    "tokens": {"kind": "ids", "below": 5, "shape": [7]},
    "segmentation": {"kind": "map", "below": 4, "size": [16, 24]},
    "neighbours": {"kind": "embeddings", "shape": [2, 6]},
    "mask": {"kind": "hole", "size": [16, 24]},
    "masked_image": {"kind": "masked", "image": "image", "mask": "mask"},
    "lr_image": {"kind": "shrunk", "image": "image", "factor": 4},
}


def batch(length: int = 64, seed: int = 0) -> dict[str, torch.Tensor]:
    return next(iter(DataLoader(RandomData(length, seed, **FIELDS), batch_size=length)))


def test_batches_have_the_declared_schema() -> None:
    entries = batch()
    shapes = {name: (tuple(value.shape[1:]), value.dtype) for name, value in entries.items()}
    assert shapes == {
        "image": ((3, 16, 24), torch.float32),
        "class_label": ((), torch.int64),
        "tokens": ((7,), torch.int64),
        "segmentation": ((16, 24), torch.int64),
        "neighbours": ((2, 6), torch.float32),
        "mask": ((1, 16, 24), torch.float32),
        "masked_image": ((3, 16, 24), torch.float32),
        "lr_image": ((3, 4, 6), torch.float32),
    }
    image = entries["image"]
    assert -1 <= image.min() < -0.99
    assert 0.99 < image.max() <= 1
    for name in ("class_label", "tokens", "segmentation"):
        assert set(entries[name].unique().tolist()) == set(range(FIELDS[name]["below"]))
    assert torch.allclose(entries["neighbours"].norm(dim=-1), torch.ones(64, 2))


def test_derived_entries_agree_with_the_image() -> None:
    entries = batch()
    hole = entries["mask"].expand_as(entries["image"]) == 1
    assert torch.equal(entries["masked_image"][~hole], entries["image"][~hole])
    assert (entries["masked_image"][hole] == -1).all()
    for mask in entries["mask"]:
        rows, columns = mask[0].any(1).sum(), mask[0].any(0).sum()
        assert mask.sum() == rows * columns  # one rectangle
        assert 4 <= rows <= 12
        assert 6 <= columns <= 18
    small = entries["lr_image"]
    assert torch.allclose(small[:, :, 1, 2], entries["image"][:, :, 4:8, 8:12].mean((2, 3)))


def test_items_depend_on_seed_and_index_only() -> None:
    first, again, other = batch(8), RandomData(99, 0, **FIELDS)[3], batch(8, seed=1)
    for name, value in first.items():
        assert torch.equal(torch.as_tensor(again[name]), value[3]), name
        assert not torch.equal(value, other[name]), name
    assert not torch.equal(first["image"][0], first["image"][1])


def test_items_are_on_the_cpu_whatever_the_default_device_is() -> None:
    with torch.device("meta"):
        item = RandomData(1, **FIELDS)[0]
    for name, value in item.items():
        assert torch.equal(
            torch.as_tensor(value), torch.as_tensor(RandomData(1, **FIELDS)[0][name])
        )


def test_a_square_is_one_number_and_channels_are_free() -> None:
    item = RandomData(1, image={"kind": "pixels", "size": 8, "channels": 12})[0]
    assert item["image"].shape == (12, 8, 8)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "at least one field"),
        ({"image": {"kind": "pixel", "size": 8}}, "'pixel' of 'image' is none of pixels, ids"),
        ({"image": {"size": 8}}, "kind None of 'image'"),
        ({"image": {"kind": "pixels"}}, "'image' as .*size"),
        ({"image": {"kind": "pixels", "size": -8}}, "'image' as .*negative"),
        ({"tokens": {"kind": "ids", "below": 0}}, "'tokens' as .*high"),
        (
            {"lr_image": {"kind": "shrunk", "image": "image", "factor": 2}},
            "'image' declared before",
        ),
    ],
)
def test_fields_that_cannot_be_drawn_are_refused(fields: Any, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        RandomData(4, **fields)
    assert "\n" not in str(caught.value)


def test_lengths_and_indices() -> None:
    with pytest.raises(DataError, match="length 0 must be positive"):
        RandomData(0, **FIELDS)
    data = RandomData(2, **FIELDS)
    assert len(data) == 2
    with pytest.raises(IndexError):
        data[2]
