from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ldm.data.datasets.open_images import OpenImagesBoxes
from ldm.data.layouts.boxes import BoxFilter, BoxTokenizer
from ldm.data.layouts.dataset import LayoutImages
from ldm.errors import DataError

HEAD = (
    "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,"
    "IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
)
ROWS = """
000002b66c9c498e,xclick,/m/01g317,1,0.1,0.5,0.2,0.6,1,1,0,0,0
000002b66c9c498e,xclick,/m/0284d,1,0.5,0.9,0.2,0.6,0,0,1,0,1
000002b66c9c498e,xclick,/m/01g317,1,0.5,0.501,0.2,0.21,0,0,0,0,0
0000048549557964,activemil,/m/01g317,1,0.0,1,0.0,1,-1,-1,-1,-1,-1
0000048549557964,activemil,/m/02p5f1q,1,0.0,0.3,0.0,0.3,0,0,0,1,0
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "train").mkdir()
    for name in ("000002b66c9c498e", "0000048549557964"):
        Image.new("RGB", (40, 30)).save(tmp_path / "train" / f"{name}.jpg")
    (tmp_path / "boxes.csv").write_text(HEAD + ROWS)
    names = "/m/02p5f1q,Coffee cup\n/m/01g317,Person\n/m/0284d,Fedora\n"
    (tmp_path / "descriptions.csv").write_text(names)
    return tmp_path


def source(root: Path, **options: Any) -> OpenImagesBoxes:
    return OpenImagesBoxes(root / "train", root / "boxes.csv", root / "descriptions.csv", **options)


def test_boxes_flags_and_filters(root: Path) -> None:
    boxes = source(root)
    assert boxes.classes == ("Person", "Fedora", "Coffee cup")  # in the order of /m/...
    assert [boxes.path(i).stem for i in range(2)] == ["000002b66c9c498e", "0000048549557964"]
    first, second = boxes.boxes(0)  # the third is too small
    assert (first.class_id, first.x0, first.y0, first.x1, first.y1) == pytest.approx(
        (0, 0.1, 0.2, 0.5, 0.6)
    )
    flags = [(b.group, b.occluded, b.depiction, b.inside) for b in (first, second)]
    assert flags == [(False, True, False, False), (True, False, False, True)]
    third, fourth = boxes.boxes(1)
    assert (third.group, third.inside, fourth.depiction) == (False, False, True)
    data = LayoutImages(boxes, BoxTokenizer(3), 16)
    assert data[0]["box_tokens"].shape == (92,)


def test_chosen_classes(root: Path) -> None:
    both = BoxFilter(1, 30, 1e-4)
    common = source(root, top=1, keep=both)
    assert common.classes == ("Person",)
    assert [len(common.boxes(i)) for i in range(2)] == [1, 1]
    (root / "classes.txt").write_text("fedora\n/m/01g317\n")
    listed = source(root, class_list=root / "classes.txt", keep=both)
    assert listed.classes == ("Fedora", "Person")
    assert [box.class_id for box in listed.boxes(0)] == [1, 0]
    (root / "other.csv").write_text(HEAD + "\n" + ROWS.split("\n")[2])
    assert source(root, top=1, count_in=root / "other.csv", keep=both).classes == ("Fedora",)
    with pytest.raises(DataError, match="there are 1 classes, but top says 2"):
        source(root, top=2, count_in=root / "other.csv")
    for text, message in (("Person\nWolf", "line 2: 'Wolf' is no class"), ("Person\nperson", "tw")):
        (root / "classes.txt").write_text(text)
        with pytest.raises(DataError, match=message):
            source(root, class_list=root / "classes.txt")


def test_damaged_and_missing_files(root: Path) -> None:
    good = (root / "boxes.csv").read_text()
    for text, message in (
        ("", "has no column ImageID"),
        (good.replace(",IsInside", ",Inside"), "has no column IsInside"),
        (good[:-20], r"boxes.csv' line 6 has \d+ of 13 values"),
        (good.replace("0.1,0.5", "x,0.5"), r"boxes.csv' line 2: could not convert"),
    ):
        (root / "boxes.csv").write_text(text)
        with pytest.raises(DataError, match=message):
            source(root)
    (root / "boxes.csv").unlink()
    with pytest.raises(DataError, match=r"there is no .*boxes.csv': it is on the download page"):
        source(root)
    (root / "boxes.csv").write_text(good)
    (root / "train" / "000002b66c9c498e.jpg").unlink()
    with pytest.raises(DataError, match=r"lacks '000002b66c9c498e.jpg'"):
        source(root)
    (root / "descriptions.csv").unlink()
    with pytest.raises(DataError, match=r"class-descriptions-boxable.csv of OpenImages"):
        source(root)
