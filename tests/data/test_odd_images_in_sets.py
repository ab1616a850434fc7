"""Odd images in data sets: pairs, boxes, shards, lists; what is passed over is counted."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.data import (
    ArrayFolder,
    CocoBoxes,
    Framing,
    ImageFolder,
    LabelMap,
    LayoutImages,
    Mask,
    MaskFiles,
    PairedFolder,
    Picture,
    Shards,
)
from ldm.data.items import left_out
from ldm.data.label_maps import read_label_map
from ldm.data.layouts.boxes import BoxFilter, BoxTokenizer
from ldm.errors import DataError
from ldm.training.data.module import DataModule
from tests.data import odd_images as odd
from tests.data.shards.test_dataset import write

TURNED = odd.exif([(0x112, 3, 1, 6), (0x11A, 2, 8, 38)], b"72 dpi\0\0")
DEEP = np.linspace(0, 1, 64).reshape(8, 8).astype(np.float32)


def in_time(work: Callable[[], None]) -> None:
    """Fail if it waits."""
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    assert not failures, failures


def test_pairs_are_turned_alike(tmp_path: Path) -> None:
    left = np.zeros((20, 40), np.uint8)
    left[:, :20] = 1
    turn = odd.chunk(b"eXIf", TURNED[6:])
    for folder in ("images", "maps", "masks", "pictures"):
        (tmp_path / folder).mkdir()
    picture = odd.jpeg(odd.half_white(), odd.segment(0xE1, TURNED))
    (tmp_path / "images" / "a.jpg").write_bytes(picture)
    (tmp_path / "pictures" / "a.jpg").write_bytes(picture)
    (tmp_path / "maps" / "a.png").write_bytes(odd.png(left[..., None], 0, 1, after=[turn]))
    (tmp_path / "masks" / "a.png").write_bytes(odd.png(left[..., None] * 255, 0, 8, after=[turn]))
    partners = {
        "segmentation": LabelMap(tmp_path / "maps", 2),
        "mask": Mask(tmp_path / "masks"),
        "picture": Picture(tmp_path / "pictures", ".jpg"),
    }
    item = PairedFolder(tmp_path / "images", partners, Framing(40, 20), broken="error")[0]
    white = item["image"][0] > 0
    assert white[:16].all()
    assert not white[24:].any()
    assert (white == (item["picture"][0] > 0)).all()
    sure = torch.cat([torch.arange(16), torch.arange(24, 40)])
    assert (white[sure] == (item["segmentation"] == 1)[sure]).all()
    assert (white[sure] == (item["mask"][0] == 1)[sure]).all()


@pytest.mark.parametrize("drawn_on", ["stored", "upright"])
def test_boxes_belong_to_the_image_whose_size_their_file_names(
    tmp_path: Path, drawn_on: str
) -> None:
    data = odd.jpeg(odd.half_white(), odd.segment(0xE1, TURNED))
    (tmp_path / "a.jpg").write_bytes(data)
    size, box = ((40, 20), [0, 0, 20, 20]) if drawn_on == "stored" else ((20, 40), [0, 0, 20, 20])
    tree = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": size[0], "height": size[1]}],
        "categories": [{"id": 1, "name": "white"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": box}],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(tree))
    source = CocoBoxes(tmp_path, [tmp_path / "boxes.json"], BoxFilter(1, 30, 0))
    images = LayoutImages(source, BoxTokenizer(1, 1), (size[1], size[0]), broken="error")
    image, found = images[0]["image"], source.boxes(0)[0]
    assert image.shape == (3, size[1], size[0])
    white = image[0, : round(found.y1 * size[1]), : round(found.x1 * size[0])]
    assert (white > 0).float().mean() > 0.9
    assert (image > 0).float().mean() < 0.6


def test_the_option_reading_reaches_every_set(tmp_path: Path) -> None:
    for folder in ("images", "pictures"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").write_bytes(odd.tiff(DEEP))
    write(tmp_path / "shards" / "0.tar", [{"png": odd.tiff(DEEP), "txt": b"a"}])
    reading, frame = {"value_range": [0, 1]}, Framing(8, 8)
    partners = {"picture": Picture(tmp_path / "pictures")}
    pair = PairedFolder(tmp_path / "images", partners, frame, reading=reading)[0]
    shards = Shards(str(tmp_path / "shards"), frame, shuffle=False, reading=reading)
    folder = ImageFolder(tmp_path / "images", 8, split="all", mode="L", reading=reading)[0]
    for image in (pair["image"], pair["picture"], next(iter(shards))["image"], folder["image"]):
        assert np.abs((image[0].numpy() + 1) / 2 - DEEP).max() < 0.003
    with pytest.raises(DataError, match=r"not one of 1 images is readable.*value_range"):
        ImageFolder(tmp_path / "images", 8, split="all")[0]


def test_pipes_in_folders_are_passed_over_and_counted(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", np.zeros((8, 8), np.float32))
    for name in ("pipe.png", "pipe.npy"):
        os.mkfifo(tmp_path / name)

    def read() -> None:
        images = ImageFolder(tmp_path, 8, split="all", small="leave_out")
        for index in range(len(images)):
            assert images[index]["image"].shape == (3, 8, 8)
        arrays = ArrayFolder(tmp_path, 8, 1, (0, 1), split="all")
        assert [arrays[i]["image"].shape for i in range(len(arrays))] == [(1, 8, 8)] * len(arrays)
        assert MaskFiles(tmp_path)(8, 8, np.random.default_rng(0)).shape == (8, 8)
        for name in ("pipe.png", "pipe.npy"):
            with pytest.raises(DataError, match="named pipe"):
                read_label_map(tmp_path / name)

    in_time(read)


def zip_of_arrays(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, np.zeros((4, 4), np.int64))


def promised(path: Path) -> None:
    np.save(path, np.zeros((4, 4), np.int64))
    path.write_bytes(path.read_bytes().replace(b"(4, 4), ", b"(9**9,)" + b" "))


BROKEN_MAPS: dict[str, Callable[[Path], object]] = {
    "a zip": zip_of_arrays,
    "a shape that is an expression": promised,
    "nothing": lambda path: path.touch(),
    "text": lambda path: path.write_text("no array"),
    "a head alone": lambda path: path.write_bytes(b"\x93NUMPY\x01\0"),
    "an endless head": lambda path: path.write_bytes(
        b"\x93NUMPY\x02\0\xff\xff\xff\xff" + b"(" * 99
    ),
    "nested brackets": lambda path: path.write_bytes(b"\x93NUMPY\x01\0\x10\x27" + b"(" * 10000),
    "terabytes": lambda path: path.write_bytes(
        b"\x93NUMPY\x01\0\x76\0"
        + b"{'descr': '<i8', 'fortran_order': False, 'shape': (1000000, 1000000), }".ljust(117)
        + b"\n"
    ),
    "objects": lambda path: np.save(path, np.array([[{}]]), allow_pickle=True),
}


@pytest.mark.parametrize("name", BROKEN_MAPS)
def test_arrays_that_are_none_are_one_error(tmp_path: Path, name: str) -> None:
    BROKEN_MAPS[name](tmp_path / "a.npy")
    with pytest.raises(DataError, match=r"label map .*a\.npy"):
        read_label_map(tmp_path / "a.npy")
    with pytest.raises(DataError, match=r"a\.npy.*mend or remove"):
        ArrayFolder(tmp_path, 4, 1, (0, 1), split="all", broken="error")


def broken_folder(root: Path) -> Path:
    root.mkdir()
    for number in range(4):
        Image.new("RGB", (8, 8)).save(root / f"{number}.png")
    (root / "1.png").write_bytes(b"no image")
    return root


@pytest.mark.parametrize("workers", [0, 2])
def test_training_says_at_its_end_what_it_left_out(
    tmp_path: Path, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    def sets() -> Any:
        return ImageFolder(tmp_path / "images", 8, split="all")

    broken_folder(tmp_path / "images")
    data = DataModule(sets(), sets(), 2, num_workers=workers)
    for batch in data.train_dataloader():
        assert batch["image"].shape == (2, 3, 8, 8)
    assert left_out(data.train) == {"unreadable": 1}
    with caplog.at_level(logging.INFO, "ldm"):
        data.teardown("fit")
    assert "train data: 1 left out: unreadable" in caplog.text
    assert "validation data" not in caplog.text
