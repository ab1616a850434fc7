from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.data.layouts.boxes import Box, BoxFilter, BoxTable, BoxTokenizer
from ldm.data.layouts.dataset import LayoutImages
from ldm.data.layouts.reading import JsonBoxes
from ldm.errors import DataError

COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
OBJECTS = [
    {"class": 0, "box": [0.1, 0.2, 0.35, 0.6]},
    {"class": 1, "box": [0.5, 0.1, 0.9, 0.45]},
    {"class": 2, "box": [0.55, 0.6, 0.85, 0.95]},
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Images of 200 x 120 pixels with a red, a green and a blue box on black."""
    pixels = np.zeros((120, 200, 3), np.uint8)
    for item, colour in zip(OBJECTS, COLOURS, strict=True):
        x0, y0, x1, y1 = item["box"]  # type: ignore[misc]
        pixels[round(y0 * 120) : round(y1 * 120), round(x0 * 200) : round(x1 * 200)] = colour
    layouts = []
    for i in range(4):
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        layouts.append({"name": f"{i}.png", "objects": OBJECTS})
    write(tmp_path, {"classes": ["red", "green", "blue"], "layouts": layouts})
    return tmp_path


def write(root: Path, tree: object) -> Path:
    (root / "layouts.json").write_text(json.dumps(tree))
    return root / "layouts.json"


def source(root: Path, **options: object) -> JsonBoxes:
    return JsonBoxes(root, root / "layouts.json", **options)


def found(image: torch.Tensor, colour: int) -> tuple[float, ...] | None:
    """Edges of what has a colour, as shares of the picture; None if there is nothing of it."""
    channel = image[colour] > 0
    rows, columns = channel.any(1).nonzero(), channel.any(0).nonzero()
    if not len(rows):
        return None
    height, width = channel.shape
    return (
        *(int(columns.min()) / width, int(rows.min()) / height),
        *((int(columns.max()) + 1) / width, (int(rows.max()) + 1) / height),
    )


@pytest.mark.parametrize("crop", ["center", "random-1d", "random-2d"])
@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_tokens_say_where_things_are_in_the_crop(root: Path, crop: str, flip: float) -> None:
    tokens = BoxTokenizer(3, flags=False)
    data = LayoutImages(source(root), tokens, 64, crop, flip, shuffle=True, interpolation="nearest")
    windows, orders = set(), set()
    for epoch in range(12):
        data.set_epoch(epoch)
        item = data[1]
        boxes, window = tokens.decode(item["box_tokens"])
        left, top, right, bottom = window
        windows.add(window)
        orders.add(tuple(box.class_id for box in boxes))
        for box in boxes:
            want = [
                (min(max(box.x0, left), right) - left) / (right - left),
                (min(max(box.y0, top), bottom) - top) / (bottom - top),
                (min(max(box.x1, left), right) - left) / (right - left),
                (min(max(box.y1, top), bottom) - top) / (bottom - top),
            ]
            got = found(item["image"], box.class_id)
            assert got is not None
            assert got == pytest.approx(want, abs=0.05)  # places are 1/89 apart
        drawn = {colour for colour in range(3) if found(item["image"], colour)}
        assert drawn <= {box.class_id for box in boxes}
    assert len(windows) == 1 if crop == "center" else len(windows) > 5
    assert len(orders) > 1
    sides = {round((w[2] - w[0]) * 200) for w in windows}
    if crop == "random-2d":
        assert min(sides) < 100
    else:
        assert all(side == pytest.approx(120, abs=3) for side in sides)


def test_order_and_crops_repeat(root: Path) -> None:
    options = {"crop": "random-2d", "flip": 0.5, "shuffle": True}
    first, second = (LayoutImages(source(root), BoxTokenizer(3), 32, **options) for _ in range(2))
    for i in (3, 0):
        assert torch.equal(first[i]["box_tokens"], second[i]["box_tokens"])
        assert torch.equal(first[i]["image"], second[i]["image"])
    assert not torch.equal(first[0]["image"], first[1]["image"])
    plain = LayoutImages(source(root), BoxTokenizer(3), 32)
    assert plain[0]["box_tokens"][[0, 3, 6]].tolist() == [0, 1, 2]
    assert plain[0]["box_tokens"].shape == (92,)
    assert first.classes == ("red", "green", "blue")


def test_what_does_not_fit(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(DataError, match="crop 'random'"):
        LayoutImages(source(root), BoxTokenizer(3), 32, "random")
    with pytest.raises(DataError, match="num_classes of the tokens is 4, but there are 3 classes"):
        LayoutImages(source(root), BoxTokenizer(4), 32)
    (root / "1.png").write_bytes(b"no image")
    data = LayoutImages(source(root), BoxTokenizer(3), 32)
    with caplog.at_level(logging.WARNING):
        data[1]
    assert data.skips.counts() == {"unreadable": 1}


def test_ones_own_boxes(root: Path) -> None:
    parts = [source(root, split=s, validation_fraction=0.5).files for s in ("train", "validation")]
    assert sorted(parts[0] + parts[1]) == [f"{i}.png" for i in range(4)]
    write(root, [{"name": "0.png", "objects": OBJECTS}])
    with pytest.raises(DataError, match="name the classes"):
        source(root)
    layout = {"name": "0.png", "objects": OBJECTS, "crop": [0, 0, 1, 0.5]}
    write(root, {"classes": ["a", "b", "c"], "layouts": [layout]})
    with pytest.raises(DataError, match=r"'0.png' has a crop"):
        source(root)
    write(root, {"classes": ["a", "b", "c"], "layouts": [{"name": "x.png", "objects": OBJECTS}]})
    with pytest.raises(DataError, match=r"lacks 'x.png'"):
        source(root)


def test_a_table_keeps_what_the_filter_says(caplog: pytest.LogCaptureFixture) -> None:
    def box(class_id: int, side: float = 0.1, **flags: bool) -> Box:
        return Box(class_id, 0.25, 0.25, 0.25 + side, 0.25 + side, **flags)

    rows = [
        ("two", box(1, occluded=True)),
        ("one", box(2)),
        ("many", box(0)),
        ("two", box(3, inside=True, group=True)),
        ("one", box(2, 0.01)),  # not above the least area
        ("one", Box(0, 0.5, 0.5, 0.5, 0.9)),
        ("one", Box(0, 1.5, 0.5, 1.7, 0.9)),
        *[("many", box(4))] * 3,
    ]
    with caplog.at_level(logging.WARNING):
        table = BoxTable(rows, BoxFilter(2, 3, 1.1e-4), "here")
    assert "here: 2 of 10 boxes have no area" in caplog.text
    assert table.names == ["two"]
    got = table.boxes(0)
    assert [(b.class_id, b.group, b.occluded, b.depiction, b.inside) for b in got] == [
        (1, False, True, False, False),
        (3, True, False, False, True),
    ]
    assert (got[0].x0, got[0].x1) == pytest.approx((0.25, 0.35))
    table = BoxTable(rows, BoxFilter(1, 4, 0), "here")
    assert table.names == ["two", "one", "many"]
    assert [b.class_id for b in table.boxes(2)] == [0, 4, 4, 4]
    with pytest.raises(DataError, match="not one of 3 images has 5 to 9 objects"):
        BoxTable(rows, BoxFilter(5, 9, 0), "here")


def test_too_many_objects_are_told_once(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = LayoutImages(source(root), BoxTokenizer(3, max_objects=2), 32)
    with caplog.at_level(logging.WARNING):
        items = [data[i]["box_tokens"] for i in range(2)]
    assert [item.shape for item in items] == [(8,), (8,)]
    assert len(caplog.records) == 1
    assert "0.png' has 3 objects, the tokens hold 2" in caplog.text
