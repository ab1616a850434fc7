from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from ldm.data.datasets.base import FramedImages
from ldm.data.datasets.lists import FileList
from ldm.data.framing import Cut, make_framing, random_side, snap, take
from ldm.errors import DataError


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    (tmp_path / "a").mkdir()
    for i in range(4):
        Image.fromarray(noise(24, 32, i)).save(tmp_path / "a" / f"{i}.png")
    (tmp_path / "list.txt").write_text("/a/0.png 2\n\n a/1.png 0 \n/a/2.png 1\n/a/3.png 2\n")
    return tmp_path


def source(root: Path, **options: Any) -> FileList:
    return FileList(root, root / "list.txt", **{"labels": True, **options})


def test_a_list_with_class_ids(listed: Path) -> None:
    data = FramedImages(source(listed, num_classes=3), make_framing(24))
    assert len(data) == 4
    assert [data[i]["class_label"] for i in range(4)] == [2, 0, 1, 2]
    pixels = ((data[1]["image"] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    assert np.array_equal(pixels, noise(24, 32, 1)[:, 4:28])


def test_a_plain_list(listed: Path) -> None:
    (listed / "list.txt").write_text("a/3.png\na/0.png")
    data = FramedImages(source(listed, labels=False), make_framing((24, 32)))
    assert set(data[0]) == {"image"}
    assert [data.source.name(i) for i in range(2)] == [str(listed / f"a/{i}.png") for i in (3, 0)]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (None, {}, r"no list of files .*list.txt': write one"),
        (None, {"source": "get it there"}, r"no list of files .*list.txt'; get it there"),
        (" \n", {}, "list.txt' is empty"),
        ("a/0.png 2\na/1.png", {}, r"line 2 must be a path and a class id, got 'a/1.png'"),
        ("a/0.png 3", {"num_classes": 3}, "line 1: class id 3 is outside 0 to 2"),
        ("b/0.png 1", {}, r"lacks 'b/0.png', the first of 1 files"),
    ],
)
def test_lists_that_do_not_fit(listed: Path, text: str | None, options: dict, message: str) -> None:
    (listed / "list.txt").unlink()
    if text is not None:
        (listed / "list.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        source(listed, **options)


def test_a_missing_folder(listed: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere' does not exist"):
        FileList(listed / "nowhere", listed / "list.txt", labels=True)


def test_crops_depend_on_seed_epoch_and_index(listed: Path) -> None:
    frame = make_framing(8, resize="keep", crop="random", flip=0.5)
    data, again = FramedImages(source(listed), frame), FramedImages(source(listed), frame)
    assert torch.equal(data[2]["image"], again[2]["image"])
    data.set_epoch(1)
    assert not torch.equal(data[2]["image"], again[2]["image"])
    other = FramedImages(source(listed), frame, seed=1)
    assert not torch.equal(other[2]["image"], again[2]["image"])


def test_broken_images_are_replaced_and_counted(
    listed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (listed / "a" / "1.png").write_bytes(b"no image")
    data = FramedImages(source(listed), make_framing(24))
    with caplog.at_level(logging.WARNING):
        labels = [data[i]["class_label"] for i in (0, 1, 1)]
    assert labels == [2, 1, 1]
    assert data.skips.counts() == {"unreadable": 2}
    assert len(caplog.records) == 1
    with pytest.raises(DataError, match=r"a/1.png"):
        FramedImages(source(listed), make_framing(24), broken="error")[1]


def test_workers_count_for_the_process_that_asks(listed: Path) -> None:
    (listed / "a" / "1.png").write_bytes(b"no image")
    data = FramedImages(source(listed), make_framing(24))
    assert len(list(DataLoader(data, 2, num_workers=2))) == 2
    assert data.skips.counts() == {"unreadable": 1}


def test_small_images(listed: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert FramedImages(source(listed), make_framing(48))[0]["image"].shape == (3, 48, 48)
    assert "enlarged 2.00 times" in caplog.text
    with pytest.raises(DataError, match="small=upscale"):
        FramedImages(source(listed), make_framing(48), small="error")[0]


def test_captions_need_to_be_there(listed: Path) -> None:
    data = FramedImages(source(listed), make_framing(8), tokenizer=lambda text: torch.zeros(1))
    with pytest.raises(DataError, match="FileList has no captions"):
        data[0]


def test_the_resizer_without_antialiasing_mixes_four_neighbours(tmp_path: Path) -> None:
    """cv2.resize(x, (8, 8)) of 32 x 32 pixels with INTER_LINEAR: the inner 2 x 2 of each 4 x 4."""
    pixels = noise(32, 32)
    Image.fromarray(pixels).save(tmp_path / "0.png")
    (tmp_path / "list.txt").write_text("0.png")
    data = FramedImages(
        FileList(tmp_path, tmp_path / "list.txt"),
        make_framing(8, interpolation="bilinear"),
        antialias=False,
    )
    got = (data[0]["image"] + 1) * 127.5
    want = pixels.reshape(8, 4, 8, 4, 3)[:, 1:3, :, 1:3].mean((1, 3))
    assert np.abs(got.permute(1, 2, 0).numpy() - want).max() <= 1
    with pytest.raises(DataError, match="antialias=false goes with bilinear"):
        FramedImages(FileList(tmp_path, tmp_path / "list.txt"), make_framing(8), antialias=False)


def test_take_and_the_framing_agree() -> None:
    image = Image.fromarray(noise(50, 70))
    for frame in (
        make_framing(16, crop="random", flip=0.5),
        make_framing((16, 20), resize=24, crop="random", interpolation="area"),
        make_framing(16, resize="keep", crop="random", flip=1.0),
        make_framing(16, crop="random", crop_scale=(0.5, 1), interpolation="bilinear"),
    ):
        for seed in range(5):
            cut = frame.cut(70, 50, np.random.default_rng(seed).random)
            got = take(image, cut, (frame.height, frame.width), frame.interpolation)
            want = frame(image, np.random.default_rng(seed).random)
            assert np.array_equal(np.array(got), np.array(want))


def test_a_smaller_copy_is_cut_alike() -> None:
    large = noise(64, 96)
    small = Image.fromarray(large[::4, ::4])
    cut = snap(Cut(18, 9, 32, 32, mirror=True), 4)
    assert (cut.left, cut.top) == (16, 8)
    part = take(small, cut, (32, 32), "bicubic", factor=4)
    assert np.array_equal(np.array(part), large[8:40:4, 16:48:4][:, ::-1])


def test_random_sides_lie_between_the_result_and_the_image() -> None:
    frame = make_framing(16)
    sides = []
    for seed in range(300):
        frame_here = random_side(frame, 80, 64)
        cut = frame_here.cut(80, 64, np.random.default_rng(seed).random)
        assert cut.width == pytest.approx(cut.height)
        assert 0 <= cut.left <= 80 - cut.width + 1e-9
        sides.append(cut.width)
    assert 16 <= min(sides) < 18
    assert 62 < max(sides) <= 64
    assert abs(np.mean(sides) - 40) < 2.5
    small = random_side(frame, 10, 12)
    assert small.cut(10, 12, np.random.default_rng(0).random).width == pytest.approx(10)
