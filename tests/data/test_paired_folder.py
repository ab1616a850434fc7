from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ldm.data.framing import make_framing
from ldm.data.paired import LabelMap, Mask, PairedFolder, Picture
from ldm.errors import DataError


def bytes_of(image: Tensor) -> np.ndarray:
    return ((image + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()


def ids(seed: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Blocks of 4 x 4 with ids below 8."""
    blocks = np.random.default_rng(seed).integers(0, 8, (height // 4, width // 4), np.uint8)
    return blocks.repeat(4, 0).repeat(4, 1)


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    """Images whose red is 30 times the id of the map."""
    for folder in ("images/x", "maps/x"):
        (tmp_path / folder).mkdir(parents=True)
    for i in range(3):
        map_ = ids(i)
        image = np.stack([map_ * 30, map_ * 0, map_ * 0], -1).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / "images" / "x" / f"{i}.png")
        Image.fromarray(map_).save(tmp_path / "maps" / "x" / f"{i}.png")
    return tmp_path


def pairs(
    root: Path, frame: object = None, num_classes: int = 8, **options: object
) -> PairedFolder:
    partner = LabelMap(root / "maps", num_classes)
    frame = frame or make_framing(16, resize="keep", crop="random", flip=0.5)
    return PairedFolder(root / "images", {"segmentation": partner}, frame, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"resize": "keep", "crop": "random", "flip": 0.5},
        {"resize": 24, "crop": "random", "interpolation": "nearest", "flip": 0.5},
        {"interpolation": "nearest"},
        {"crop": "random", "crop_scale": (0.5, 1), "interpolation": "nearest", "flip": 1.0},
    ],
)
def test_image_and_map_are_cut_alike(maps: Path, options: dict) -> None:
    data = pairs(maps, make_framing(16, **options))
    parts = []
    for epoch in range(5):
        data.set_epoch(epoch)
        for i in range(3):
            item = data[i]
            assert item["segmentation"].shape == (16, 16)
            assert item["segmentation"].dtype == torch.int64
            assert np.array_equal(bytes_of(item["image"])[..., 0], item["segmentation"] * 30)
            parts.append(item["segmentation"])
    assert len({part.numpy().tobytes() for part in parts}) >= (3 if "crop" not in options else 12)


def test_the_published_crop(maps: Path) -> None:
    """256 of 384, at a fifth of the size: ids stay ids when the map shrinks."""
    data = pairs(maps, make_framing(52, resize=76, crop="random"))
    seen = data[0]["segmentation"].unique()
    assert set(seen.tolist()) <= set(range(8))


def test_offset_and_no_class(maps: Path) -> None:
    map_ = ids(0)
    map_[:4] = 255
    Image.fromarray(map_).save(maps / "maps" / "x" / "0.png")
    frame = make_framing((48, 64))
    partner = LabelMap(maps / "maps", 9, offset=1)
    item = PairedFolder(maps / "images", {"segmentation": partner}, frame)[0]
    want = np.where(map_ == 255, -1, map_.astype(np.int64) + 1)
    assert np.array_equal(item["segmentation"], want)


def test_pairs_that_do_not_fit_are_passed_over(
    maps: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (maps / "maps" / "x" / "0.png").write_bytes(b"no image")
    Image.fromarray(ids(1)[:40]).save(maps / "maps" / "x" / "1.png")
    data = pairs(maps)
    with caplog.at_level(logging.WARNING):
        items = [data[i]["segmentation"] for i in range(3)]
    assert len(items) == 3
    assert data.skips.counts() == {"unreadable": 2}
    assert "x/1.png' has 64 x 40 pixels, its image 'x/1.png' 64 x 48" in caplog.text
    with pytest.raises(DataError, match=r"x/2.png: unknown class id 5|6|7 at row"):
        pairs(maps, num_classes=5, broken="error")[2]


def test_missing_partners(maps: Path, caplog: pytest.LogCaptureFixture) -> None:
    (maps / "maps" / "x" / "0.png").unlink()
    with caplog.at_level(logging.WARNING):
        data = pairs(maps)
    assert data.files == ["x/1.png", "x/2.png"]
    assert "1 of 3 images" in caplog.text
    with pytest.raises(DataError, match=r"3 of 3 images .* have no segmentation.*maps/x/0_map.png"):
        PairedFolder(
            maps / "images",
            {"segmentation": LabelMap(maps / "maps", 8, ending="_map.png")},
            make_framing(16),
        )


def test_lists_and_splits(maps: Path) -> None:
    (maps / "list.txt").write_text("x/2.png\n/x/0.png\n")
    assert pairs(maps, files=maps / "list.txt").files == ["x/2.png", "x/0.png"]
    halves = [pairs(maps, split=name, validation_fraction=0.5) for name in ("train", "validation")]
    assert sorted(halves[0].files + halves[1].files) == [f"x/{i}.png" for i in range(3)]
    (maps / "list.txt").write_text("y.png\n")
    with pytest.raises(DataError, match=r"lacks 'y.png'"):
        pairs(maps, files=maps / "list.txt")


def test_masks_beside_the_images(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    hole = np.zeros((24, 32), np.uint8)
    hole[5:9, 8:20] = 255
    Image.fromarray(image).save(tmp_path / "0.png")
    Image.fromarray(hole).save(tmp_path / "0_mask.png")
    for invert in (False, True):
        mask = Mask(tmp_path, "_mask.png", invert)
        data = PairedFolder(tmp_path, {"mask": mask}, make_framing((24, 32)))
        assert data.files == ["0.png"]
        item = data[0]
        assert item["mask"].shape == (1, 24, 32)
        wanted = (hole > 0) != invert
        assert np.array_equal(item["mask"][0], wanted)
        assert (item["masked_image"][:, torch.from_numpy(wanted)] == -1).all()
        kept = torch.from_numpy(~wanted)
        assert torch.equal(item["masked_image"][:, kept], item["image"][:, kept])


def test_low_resolution_partners(tmp_path: Path) -> None:
    for folder in ("high", "low"):
        (tmp_path / folder).mkdir()
    large = np.random.default_rng(0).integers(0, 256, (64, 98, 3), np.uint8)
    Image.fromarray(large).save(tmp_path / "high" / "0.png")
    Image.fromarray(large[2::4, 2:96:4]).save(tmp_path / "low" / "0.png")
    partner = {"lr_image": Picture(tmp_path / "low", factor=4)}
    frame = make_framing(32, resize="keep", crop="random", flip=0.5)
    data = PairedFolder(tmp_path / "high", partner, frame)
    for epoch in range(8):
        data.set_epoch(epoch)
        item = data[0]
        high, low = bytes_of(item["image"]), bytes_of(item["lr_image"])
        assert low.shape == (8, 8, 3)
        assert np.array_equal(low, high[2::4, 2::4]) or np.array_equal(low, high[2::4, 1::4])
    whole = PairedFolder(tmp_path / "high", partner, make_framing((32, 48)))[0]
    assert whole["lr_image"].shape == (3, 8, 12)
    with pytest.raises(DataError, match="no multiple of the factor 4"):
        PairedFolder(tmp_path / "high", partner, make_framing(30))
    Image.fromarray(large[::2, ::2]).save(tmp_path / "low" / "0.png")
    with pytest.raises(DataError, match=r"49 x 32 pixels, its image '0.png' 98 x 64 / 4"):
        PairedFolder(tmp_path / "high", partner, frame, broken="error")[0]


def test_where_nothing_fits_the_reason_is_told(maps: Path) -> None:
    with pytest.raises(DataError, match=r"not one of 3 images is readable; the first: .*unknown"):
        pairs(maps, num_classes=1)[0]
