from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from ldm.data.arrays import ArrayFolder
from ldm.data.folder import ImageFolder
from ldm.errors import DataError


def bands(seed: int = 0, shape: tuple[int, ...] = (40, 50, 12)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 10_001, shape).astype(np.uint16)


def save(path: Path, array: np.ndarray) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)
    return array


def normal(array: np.ndarray, low: float, high: float) -> torch.Tensor:
    """Channels-last values mapped by the definition."""
    scaled = 2 * (array.astype(np.float64) - low) / (high - low) - 1
    return torch.from_numpy(np.moveaxis(scaled, -1, 0).astype(np.float32))


OPTIONS = {"channels": 12, "value_range": [0, 10_000], "split": "all"}


def test_twelve_bands_in_both_layouts(tmp_path: Path) -> None:
    array = save(tmp_path / "hwc" / "deep" / "a.npy", bands())
    save(tmp_path / "chw" / "a.npy", np.moveaxis(array, -1, 0))
    want = normal(array, 0, 10_000)
    for layout in ("hwc", "chw"):
        item = ArrayFolder(tmp_path / layout, (40, 50), layout=layout, **OPTIONS)[0]
        assert set(item) == {"image"}
        assert item["image"].dtype == torch.float32
        assert item["image"].is_contiguous()
        assert torch.allclose(item["image"], want, atol=1e-6)


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "f2", "i2", "u1", "i4", "?", ">u2"])
def test_numbers_of_all_kinds(tmp_path: Path, dtype: str) -> None:
    array = save(tmp_path / "a.npy", (bands(shape=(16, 16)) % 2).astype(dtype))
    image = ArrayFolder(tmp_path, 16, channels=1, value_range=[0, 1], split="all")[0]["image"]
    assert image.shape == (1, 16, 16)
    assert torch.equal(image, normal(array[..., None], 0, 1))


def test_hounsfield_units_are_clipped_or_refused(tmp_path: Path) -> None:
    array = bands(shape=(16, 16)).astype(np.int16) - 3000
    save(tmp_path / "slice.npy", array)
    options = {"size": 16, "channels": 1, "value_range": [-1000, 1000], "split": "all"}
    image = ArrayFolder(tmp_path, **options)[0]["image"]
    assert torch.allclose(image, normal(array.clip(-1000, 1000)[..., None], -1000, 1000))
    with pytest.raises(DataError, match=r"slice.npy.*from -\d+ to \d+, outside value_range"):
        ArrayFolder(tmp_path, outside="error", **options)[0]


def test_gaps_are_filled_or_refused(tmp_path: Path) -> None:
    array = np.zeros((16, 16), np.float32)
    array[3, 4], array[5, 6] = np.nan, np.inf
    save(tmp_path / "gap.npy", array)
    options = {"size": 16, "channels": 1, "value_range": [-1, 1], "split": "all"}
    with pytest.raises(DataError, match=r"gap.npy.*NaN.*fill"):
        ArrayFolder(tmp_path, **options)[0]
    image = ArrayFolder(tmp_path, fill=-1, **options)[0]["image"][0]
    assert (image[3, 4], image[5, 6], image.sum()) == (-1, -1, -2)


def test_framing_is_that_of_image_folders(tmp_path: Path) -> None:
    """The same pixels as image and as array, cut and mirrored alike in every epoch."""
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    for i in range(4):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
        save(tmp_path / "arrays" / f"{i}.npy", pixels)
    for options in (
        {"size": 32, "resize": "keep"},
        {"size": (48, 80), "resize": "keep"},
        {"size": 20, "resize": 30, "interpolation": "area"},
        {"size": 30, "interpolation": "area"},
    ):
        common = {"split": "all", "crop": "random", "flip": 0.5, "seed": 3, **options}
        images = ImageFolder(tmp_path / "images", **common)
        arrays = ArrayFolder(tmp_path / "arrays", channels=3, value_range=[0, 255], **common)
        for epoch in (0, 1):
            images.set_epoch(epoch)
            arrays.set_epoch(epoch)
            for i in range(4):
                difference = images[i]["image"] - arrays[i]["image"]
                assert difference.abs().max() <= 1.01 / 127.5  # Pillow rounds twice


def test_splits_are_those_of_the_names(tmp_path: Path) -> None:
    for i in range(40):
        save(tmp_path / f"{i}.npy", np.zeros((4, 4), np.uint8))
    options = {"size": 4, "channels": 1, "value_range": [0, 255], "validation_fraction": 0.3}
    train = ArrayFolder(tmp_path, split="train", **options)
    held_out = ArrayFolder(tmp_path, split="validation", **options)
    assert sorted(train.files + held_out.files) == sorted(f"{i}.npy" for i in range(40))
    assert len(train) > len(held_out) > 2


def test_reduction_is_anti_aliased(tmp_path: Path) -> None:
    stripes = np.zeros((64, 64), np.float32)
    stripes[:, ::2] = 1
    save(tmp_path / "a.npy", stripes)
    options = {"size": 16, "channels": 1, "value_range": [0, 1], "split": "all"}
    for interpolation in ("area", "bilinear"):
        image = ArrayFolder(tmp_path, interpolation=interpolation, **options)[0]["image"]
        assert image[..., 1:-1].abs().max() < 0.05
    nearest = ArrayFolder(tmp_path, interpolation="nearest", **options)[0]["image"]
    assert nearest.abs().min() == 1


def test_only_the_crop_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "a.npy", bands(shape=(400, 400, 12)))
    seen = []
    normalise = ArrayFolder._normalise
    monkeypatch.setattr(
        ArrayFolder,
        "_normalise",
        lambda self, file, part: seen.append(part) or normalise(self, file, part),
    )
    ArrayFolder(tmp_path, 32, resize="keep", **OPTIONS)[0]
    assert [part.shape for part in seen] == [(12, 32, 32)]
    assert isinstance(seen[0], np.memmap)


def test_wrong_shapes_are_named_and_never_skipped(tmp_path: Path) -> None:
    save(tmp_path / "a.npy", bands())
    with pytest.raises(DataError, match=r"a.npy' of shape \(40, 50, 12\) has 12 chan.*channels=3"):
        ArrayFolder(tmp_path, 16, channels=3, value_range=[0, 1], split="all")
    with pytest.raises(DataError, match=r"40 channels of 50 x 12 pixels in layout=chw"):
        ArrayFolder(tmp_path, 16, layout="chw", **OPTIONS)
    save(tmp_path / "b.npy", bands(shape=(40, 50)))
    save(tmp_path / "c.npy", bands(shape=(2, 4, 5, 12)))
    dataset = ArrayFolder(tmp_path, 16, **OPTIONS)
    with pytest.raises(DataError, match=r"b.npy.* has 1 channels"):
        dataset[1]
    with pytest.raises(DataError, match=r"c.npy.* is no image"):
        dataset[2]


def test_unreadable_files_are_skipped_or_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path / "good.npy", bands())
    np.save(tmp_path / "bad1.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "bad2.npy").write_bytes((tmp_path / "good.npy").read_bytes()[:500])
    (tmp_path / "bad3.npy").write_text("not an array")
    save(tmp_path / "bad4.npy", np.zeros((4, 4), np.complex64))
    np.savez(tmp_path / "bad5.npz", bands())
    (tmp_path / "bad5.npz").rename(tmp_path / "bad5.npy")
    save(tmp_path / "bad6.npy", np.zeros((0, 4, 12)))
    with caplog.at_level(logging.WARNING):
        dataset = ArrayFolder(tmp_path, 16, **OPTIONS)
        assert dataset.files[-1] == "good.npy"
        assert torch.equal(dataset[0]["image"], dataset[6]["image"])
    assert len(caplog.records) == 6
    for i in range(1, 7):
        with pytest.raises(DataError, match=rf"cannot read array '.*bad{i}.npy'"):
            ArrayFolder(tmp_path, 16, broken="error", **OPTIONS)[i - 1]
        (tmp_path / f"bad{i}.npy").unlink()
        save(tmp_path / f"bad{i}.npy", bands())


def test_small_arrays_and_empty_folders(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(DataError, match="does not exist: set root to a folder of arrays"):
        ArrayFolder(tmp_path / "nowhere", 16, **OPTIONS)
    (tmp_path / "a.txt").touch()
    with pytest.raises(DataError, match=r"holds no .npy file: put arrays there"):
        ArrayFolder(tmp_path, 16, **OPTIONS)
    save(tmp_path / "a.npy", bands(shape=(8, 8, 12)))
    with caplog.at_level(logging.WARNING):
        assert ArrayFolder(tmp_path, 16, **OPTIONS)[0]["image"].shape == (12, 16, 16)
    assert "enlarged 2.00 times" in caplog.text
    with pytest.raises(DataError, match="small=upscale"):
        ArrayFolder(tmp_path, 16, small="error", **OPTIONS)[0]


def test_classes_are_the_first_folders(tmp_path: Path) -> None:
    for name in ("forest/1", "river/1", "river/2"):
        save(tmp_path / f"{name}.npy", bands())
    dataset = ArrayFolder(tmp_path, 16, num_classes=2, **OPTIONS)
    assert dataset.classes == ("forest", "river")
    assert [dataset[i]["class_label"] for i in range(3)] == [0, 1, 1]
    with pytest.raises(DataError, match="num_classes says 3"):
        ArrayFolder(tmp_path, 16, num_classes=3, **OPTIONS)


@pytest.mark.parametrize(
    "options",
    [
        {"layout": "nchw"},
        {"outside": "wrap"},
        {"interpolation": "lanczos"},
        {"value_range": [1, 1]},
        {"value_range": [0]},
        {"crop": "centre"},
        {"split": "val"},
    ],
)
def test_bad_options_are_named(tmp_path: Path, options: dict) -> None:
    save(tmp_path / "a.npy", bands())
    with pytest.raises(DataError, match=next(iter(options))):
        ArrayFolder(tmp_path, **{"size": 16, **OPTIONS, **options})


def test_running_workers_see_the_epoch(tmp_path: Path) -> None:
    save(tmp_path / "a.npy", bands())
    with torch.device("meta"):
        dataset = ArrayFolder(tmp_path, 16, crop="random", resize="keep", **OPTIONS)
    loader = DataLoader(dataset, num_workers=1, persistent_workers=True)
    first = next(iter(loader))["image"]
    dataset.set_epoch(1)
    second = next(iter(loader))["image"]
    assert not torch.equal(first, second)
    assert torch.equal(second[0], dataset[0]["image"])
