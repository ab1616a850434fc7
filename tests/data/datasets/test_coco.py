from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ldm.data.datasets.base import FramedImages
from ldm.data.datasets.coco import CocoBoxes, CocoCaptions
from ldm.data.framing import make_framing
from ldm.data.layouts.boxes import BoxFilter
from ldm.errors import DataError

SIZES = {9: (40, 20), 4: (30, 30), 7: (20, 50)}
"""Images by id, in the order of the file."""


def images() -> list[dict[str, Any]]:
    return [
        {"id": i, "file_name": f"{i:012}.jpg", "width": w, "height": h}
        for i, (w, h) in SIZES.items()
    ]


def thing(image: int, category: int, *bbox: float, **more: Any) -> dict[str, Any]:
    thing.count = getattr(thing, "count", 0) + 1  # type: ignore[attr-defined]
    return {
        **{"id": thing.count, "image_id": image, "category_id": category},  # type: ignore[attr-defined]
        **{"bbox": list(bbox), "iscrowd": 0, "area": bbox[2] * bbox[3]},
        **more,
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "train2017").mkdir()
    for i, size in SIZES.items():
        Image.new("RGB", size, (i * 9,) * 3).save(tmp_path / "train2017" / f"{i:012}.jpg")
    instances = {
        "images": images(),
        "categories": [{"id": i, "name": name} for i, name in ((18, "dog"), (1, "person"))],
        "annotations": [
            thing(4, 18, 3, 6, 12, 15),
            thing(9, 1, 10, 5, 20, 10, iscrowd=1),
            thing(9, 18, 0, 0, 0.01, 0.01),
            thing(4, 1, 0, 0, 30, 15),
            thing(7, 1, 0, 0, 2, 5),
        ],
    }
    stuff = {
        "images": images(),
        "categories": [{"id": 183, "name": "other"}, {"id": 92, "name": "banner"}],
        "annotations": [thing(9, 92, 0, 10, 40, 10), thing(9, 183, 0, 0, 40, 20)],
    }
    captions = {
        "images": images(),
        "annotations": [
            {"id": i, "image_id": image, "caption": text}
            for i, (image, text) in enumerate([(9, "a b"), (4, " one\ndog "), (9, "b a"), (7, " ")])
        ],
    }
    for name, tree in (("instances", instances), ("stuff", stuff), ("captions", captions)):
        (tmp_path / f"{name}.json").write_text(json.dumps(tree))
    return tmp_path


def boxes(root: Path, *names: str, **options: Any) -> CocoBoxes:
    return CocoBoxes(root / "train2017", [root / f"{n}.json" for n in names], **options)


def test_things_and_stuff(root: Path) -> None:
    source = boxes(root, "instances", "stuff", keep=BoxFilter(1, 30, 1e-5))
    assert source.classes == ("person", "dog", "banner")
    assert [source.path(i).name for i in range(3)] == [f"{i:012}.jpg" for i in SIZES]
    first = source.boxes(0)
    assert [(box.class_id, box.group) for box in first] == [(0, True), (2, False)]
    assert [first[0].x0, first[0].y0, first[0].x1, first[0].y1] == [0.25, 0.25, 0.75, 0.75]
    assert [box.class_id for box in source.boxes(1)] == [1, 0]


def test_filters(root: Path) -> None:
    source = boxes(root, "instances")  # 2 to 30 objects
    assert [source.path(i).name for i in range(len(source))] == ["000000000004.jpg"]
    with_stuff = boxes(root, "instances", "stuff")
    assert [with_stuff.path(i).name[-5] for i in range(len(with_stuff))] == ["9", "4"]
    parts = [boxes(root, "instances", "stuff", part=part) for part in ((0, 1), (1, None))]
    assert [(len(part), part.path(0).name[-5]) for part in parts] == [(1, "9"), (1, "4")]
    large = boxes(root, "instances", keep=BoxFilter(1, 8, 0.02))
    assert len(large) == 2
    with pytest.raises(DataError, match=r"part \[2, 4\] of 2 images is empty"):
        boxes(root, "instances", "stuff", part=(2, 4))


def test_boxes_are_those_that_pycocotools_reads(root: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco").COCO(root / "instances.json")
    source = boxes(root, "instances", keep=BoxFilter(1, 30, 0))
    for i, (image, (width, height)) in enumerate(SIZES.items()):
        wanted = [
            [item["bbox"][0] / width, item["bbox"][1] / height]
            for item in coco.loadAnns(coco.getAnnIds(imgIds=image))
        ]
        assert [[box.x0, box.y0] for box in source.boxes(i)] == [pytest.approx(w) for w in wanted]


def test_captions(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        source = CocoCaptions(root / "train2017", root / "captions.json")
    assert "1 images have no caption" in caplog.text
    data = FramedImages(source, make_framing(16))
    assert len(data) == 2
    assert data[1]["caption"] == "one dog"
    seen = set()
    for epoch in range(20):
        data.set_epoch(epoch)
        seen.add(data[0]["caption"])
    assert seen == {"a b", "b a"}


def test_damaged_and_missing_files(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(DataError, match=r"no annotation file .*x.json': it is in annotations_"):
        boxes(root, "x")
    (root / "cut.json").write_text((root / "instances.json").read_text()[:300])
    with pytest.raises(DataError, match=r"cut.json.*cannot be read as JSON"):
        boxes(root, "cut")
    with pytest.raises(DataError, match=r"captions.json' .* has no list 'categories'"):
        boxes(root, "captions")
    with pytest.raises(DataError, match=r"instances.json': an entry has no 'caption'"):
        CocoCaptions(root / "train2017", root / "instances.json")
    tree = json.loads((root / "instances.json").read_text())
    tree["annotations"] += [thing(5, 1, 0, 0, 9, 9), thing(4, 99, 0, 0, 9, 9)]
    (root / "instances.json").write_text(json.dumps(tree))
    with caplog.at_level(logging.WARNING):
        assert len(boxes(root, "instances").boxes(0)) == 2
    assert "2 of 7 annotations" in caplog.text
    caplog.clear()
    tree["annotations"] += [
        thing(4, 1, 0, 0, 9, 9, bbox=bbox) for bbox in (None, [1, 2], ["x"] * 4)
    ]
    (root / "instances.json").write_text(json.dumps(tree))
    with caplog.at_level(logging.WARNING):
        assert len(boxes(root, "instances").boxes(0)) == 2
    assert "5 of 10 annotations have no known image, category or box" in caplog.text
    tree["images"][0]["width"] = 0
    (root / "instances.json").write_text(json.dumps(tree))
    with pytest.raises(DataError, match=r"instances.json': image '000000000009.jpg' has 0 x 20"):
        boxes(root, "instances")
    tree["images"][0]["width"] = 40
    (root / "instances.json").write_text(json.dumps(tree))
    (root / "train2017" / "000000000004.jpg").unlink()
    with pytest.raises(DataError, match=r"lacks '000000000004.jpg'"):
        boxes(root, "instances")
