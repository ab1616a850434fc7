"""The data of super-resolution as the configs build it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from ldm.config import instantiate, load_config
from ldm.data.folder import ImageFolder
from ldm.data.scenes.dataset import SceneDataset
from ldm.data.super_resolution.bicubic import Bicubic
from ldm.data.super_resolution.bsrgan import bsr, bsr_light
from ldm.data.super_resolution.dataset import SuperResolution
from ldm.errors import ConfigError, DataError
from tests.experiments import CONFIGS

OVERLAYS = CONFIGS / "data"
IMAGENET, BSR = (CONFIGS / "super_resolution" / f"{n}.yaml" for n in ("imagenet-ldm-4", "bsr"))


def photograph(path: Path, size: tuple[int, int] = (100, 80)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(path.name))
    small = noise.integers(0, 256, (max(size[1] // 24, 2), max(size[0] // 24, 2), 3), np.uint8)
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(path)


def data_of(*files: Path, **overrides: object) -> Any:
    pairs = [f"{key}={value}" for key, value in overrides.items()]
    config = load_config(*files, overrides=[*pairs, "image_size=64"])
    return instantiate(config.data, "data")


def check(item: dict[str, Any], side: int = 64) -> None:
    assert item["image"].shape == (3, side, side)
    assert item["lr_image"].shape == (3, side // 4, side // 4)
    assert item["lr_image"].dtype == torch.float32
    assert item["lr_image"].abs().max() <= 1
    means = torch.nn.functional.avg_pool2d(item["image"][None], 4)[0]
    assert (item["lr_image"] - means).abs().mean() < 0.25


# -- configs ----------------------------------------------------------------------------------


def test_imagenet(tmp_path: Path) -> None:
    for i in range(3):
        photograph(tmp_path / "train" / "n01" / f"{i}.JPEG")
    photograph(tmp_path / "val" / "n01" / "0.JPEG", (64, 100))
    data = data_of(IMAGENET, data_root=tmp_path)
    assert (len(data.train), len(data.validation)) == (3, 1)
    assert data.train.degradation == data.validation.degradation == Bicubic(4)
    framing = data.train.images.framing
    assert (framing.crop, list(framing.crop_scale)) == ("random", [0.5, 1])
    assert framing.interpolation == data.validation.images.framing.interpolation == "area"
    for items in (data.train, data.validation):
        check(items[0])
    # SR3: the largest centre crop, resized by area
    with Image.open(tmp_path / "val" / "n01" / "0.JPEG") as image:
        centre = np.asarray(image.crop((0, 18, 64, 82))).astype(np.float32)
    large = (data.validation[0]["image"].permute(1, 2, 0) + 1) * 127.5
    assert np.abs(large.numpy() - centre).max() < 1e-3


def test_images_that_are_too_small_are_left_out(tmp_path: Path) -> None:
    for split in ("train", "val"):
        photograph(tmp_path / split / "0.png")
        photograph(tmp_path / split / "1.png", (63, 400))
        photograph(tmp_path / split / "2.png", (64, 64))
    data = data_of(IMAGENET, data_root=tmp_path)
    check(data.train[1])
    assert data.train.skips.counts() == {"refused by its data set": 1}
    assert [Path(file).stem for file in data.validation.images.files] == ["0", "2"]
    check(data.validation[1])


def test_bsr(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        photograph(tmp_path / split / "0.jpg")
    data = data_of(BSR, data_root=tmp_path)
    assert data.train.degradation == data.validation.degradation == bsr_light(4)
    for items in (data.train, data.validation):
        check(items[0])
    before = data.validation[0]["lr_image"]
    assert torch.equal(before, data.validation[0]["lr_image"])
    data.train.set_epoch(1)
    first = data.train[0]["lr_image"]
    data.train.set_epoch(2)
    assert not torch.equal(first, data.train[0]["lr_image"])


@pytest.mark.parametrize("model", [IMAGENET, BSR])
def test_a_folder_keeps_the_degradation_of_the_config(model: Path, tmp_path: Path) -> None:
    for i in range(6):
        photograph(tmp_path / f"{i}.png")
    data = data_of(model, OVERLAYS / "super_resolution-folder.yaml", data_root=tmp_path)
    assert len(data.train) + len(data.validation) == 6
    expected = Bicubic(4) if model == IMAGENET else bsr_light(4)
    assert data.train.degradation == data.validation.degradation == expected
    check(data.train[0])


def test_small_images_of_a_folder_are_no_part_of_the_set(tmp_path: Path) -> None:
    for i in range(6):
        photograph(tmp_path / f"{i}.png", (63, 400) if i % 3 == 0 else (64, 70))
    data = data_of(BSR, OVERLAYS / "super_resolution-folder.yaml", data_root=tmp_path)
    assert len(data.train) + len(data.validation) == 4
    for items in (data.train, data.validation):
        for i in range(len(items)):
            check(items[i])
        assert items.skips.counts() == {}


def test_bsr_for_any_config(tmp_path: Path) -> None:
    for i in range(2):
        photograph(tmp_path / f"{i}.png")
    files = (OVERLAYS / f"super_resolution-{name}.yaml" for name in ("folder", "bsr"))
    data = data_of(IMAGENET, *files, data_root=tmp_path)
    assert data.train.degradation == data.validation.degradation == bsr_light(4)
    files = (OVERLAYS / f"super_resolution-{name}.yaml" for name in ("folder", "bsr"))
    strong = "data.params.train.params.degradation.target"
    data = data_of(IMAGENET, *files, data_root=tmp_path, **{strong: "ldm.data.bsr"})
    assert data.validation.degradation == bsr(4)
    check(data.train[0])


def test_pairs(tmp_path: Path) -> None:
    for i in range(6):
        photograph(tmp_path / "hr" / f"{i}.jpg", (96, 72))
        with Image.open(tmp_path / "hr" / f"{i}.jpg") as image:
            (tmp_path / "lr").mkdir(exist_ok=True)
            image.resize((24, 18), Image.Resampling.BOX).save(tmp_path / "lr" / f"{i}.png")
    data = data_of(BSR, OVERLAYS / "super_resolution-pairs.yaml", data_root=tmp_path)
    assert len(data.train) + len(data.validation) == 6
    for items in (data.train, data.validation):
        check(items[0])
        means = torch.nn.functional.avg_pool2d(items[0]["image"][None], 4)[0]
        assert (items[0]["lr_image"] - means).abs().max() < 0.01


@pytest.mark.parametrize("overlay", ["super_resolution-folder", "super_resolution-pairs"])
def test_a_folder_that_is_missing_is_one_line(overlay: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="data_root: mandatory value is missing"):
        load_config(IMAGENET, OVERLAYS / f"{overlay}.yaml")
    with pytest.raises(DataError, match=r"data\.params\.train.*nowhere.* does not exist") as told:
        data_of(IMAGENET, OVERLAYS / f"{overlay}.yaml", data_root=tmp_path / "nowhere")
    assert "\n" not in str(told.value)


# -- the wrapper ------------------------------------------------------------------------------


def test_batches_are_the_same_with_any_number_of_workers(tmp_path: Path) -> None:
    for i in range(4):
        photograph(tmp_path / f"{i}.png")

    def batches(workers: int) -> list[Tensor]:
        images = ImageFolder(tmp_path, 32, split="all", crop="random", crop_scale=(0.5, 1))
        loader = DataLoader(SuperResolution(images, bsr_light(4)), 2, num_workers=workers)
        return [batch["lr_image"] for batch in loader]

    alone, helped = batches(0), batches(2)
    assert all(torch.equal(a, b) for a, b in zip(alone, helped, strict=True))


def test_scenes_and_sizes_that_do_not_divide() -> None:
    item = SuperResolution(SceneDataset((32, 48), 2), bsr_light(2), seed=3)[1]
    assert item["lr_image"].shape == (3, 16, 24)
    assert item["caption"]
    with pytest.raises(DataError, match="30 x 30 pixels cannot shrink 4 times"):
        SuperResolution(SceneDataset(30, 2), Bicubic(4))[0]
