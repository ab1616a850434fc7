"""The data of inpainting as the configs build it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ldm.conditioners.spatial import ResizedMask
from ldm.config import instantiate, load_config
from ldm.data.folder import ImageFolder
from ldm.data.inpainting.dataset import Inpainting
from ldm.data.inpainting.masks import lama_masks
from ldm.data.scenes.dataset import SceneDataset
from ldm.errors import ConfigError, DataError
from tests.experiments import CONFIGS, name_of

OVERLAYS = CONFIGS / "data"
MODELS = sorted(path for path in (CONFIGS / "inpainting").glob("[!_]*.yaml"))


def photograph(path: Path, size: tuple[int, int] = (90, 80)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)


def data_of(*files: Path, **overrides: object) -> Any:
    pairs = [f"{key}={value}" for key, value in overrides.items()]
    config = load_config(*files, overrides=[*pairs, "image_size=64"])
    return instantiate(config.data, "data")


def check(item: dict[str, Any], height: int, width: int) -> None:
    """What the conditioners of the model ask for."""
    image, mask, masked = item["image"], item["mask"], item["masked_image"]
    assert image.shape == masked.shape == (3, height, width)
    assert mask.shape == (1, height, width)
    assert image.dtype == mask.dtype == masked.dtype == torch.float32
    ResizedMask().check(mask[None])
    assert 0 < mask.mean() <= 1
    # (1 - mask) * image in [0, 1], as it is published
    assert torch.allclose(masked, (1 - mask) * ((image + 1) / 2) * 2 - 1, atol=1e-6)


# -- configs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", MODELS, ids=name_of)
def test_places(path: Path, tmp_path: Path) -> None:
    photograph(tmp_path / "data_large" / "a" / "airfield" / "00000001.jpg")
    photograph(tmp_path / "data_large" / "b" / "bar" / "00000001.jpg")
    photograph(tmp_path / "val_large" / "Places365_val_00000001.jpg")
    data = data_of(path, data_root=tmp_path)
    assert (len(data.train), len(data.validation)) == (2, 1)
    assert data.train.masks == lama_masks("training-256")
    assert data.validation.masks == lama_masks("thick-512")
    assert (data.train.images.framing.crop, data.train.images.framing.resize) == ("random", "keep")
    assert data.validation.images.framing.crop == "center"
    for items in (data.train, data.validation):
        check(items[0], 64, 64)


def test_the_first_2048_images_are_validated(tmp_path: Path) -> None:
    config = load_config(MODELS[0], overrides=[f"data_root={tmp_path}"])
    assert config.trainer.limit_val_batches * config.data.params.batch_size == 2048


def test_a_folder_keeps_the_masks_of_the_config(tmp_path: Path) -> None:
    for i in range(6):
        photograph(tmp_path / f"{i}.png")
    data = data_of(MODELS[0], OVERLAYS / "inpainting-folder.yaml", data_root=tmp_path)
    assert sorted(data.train.images.files + data.validation.images.files) == [
        f"{i}.png" for i in range(6)
    ]
    assert data.train.masks == lama_masks("training-256")
    assert data.train.images.framing.resize is None
    check(data.train[0], 64, 64)


def test_other_masks_by_override(tmp_path: Path) -> None:
    """The two that the comments of the recipe give."""
    for i in range(2):
        photograph(tmp_path / "photos" / f"{i}.png")
    corner = np.zeros((8, 8), np.uint8)
    corner[:4, :4] = 255
    (tmp_path / "masks").mkdir()
    Image.fromarray(corner).save(tmp_path / "masks" / "corner.png")
    files = (MODELS[0], OVERLAYS / "inpainting-folder.yaml")
    masks = "data.params.train.params.masks"
    root = tmp_path / "photos"
    thin = data_of(*files, data_root=root, **{f"{masks}.params.name": "thin-512"})
    assert thin.train.masks == lama_masks("thin-512")
    own = f"{{target: ldm.data.MaskFiles, params: {{root: '{tmp_path / 'masks'}'}}}}"
    item = data_of(*files, data_root=root, **{masks: own}).train[0]
    check(item, 64, 64)
    assert item["mask"].mean() == 0.25
    assert item["mask"][0, :32, :32].all()


def test_pairs(tmp_path: Path) -> None:
    half = np.zeros((80, 90), np.uint8)
    half[:, :45] = 255
    for i in range(6):
        photograph(tmp_path / f"{i}.jpg")
        Image.fromarray(half).save(tmp_path / f"{i}_mask.png")
    data = data_of(MODELS[0], OVERLAYS / "inpainting-pairs.yaml", data_root=tmp_path)
    assert len(data.train) + len(data.validation) == 6
    for items in (data.train, data.validation):
        check(items[0], 64, 64)
        assert items[0]["mask"].mean() == pytest.approx(0.5, abs=0.07)


@pytest.mark.parametrize("overlay", ["inpainting-folder", "inpainting-pairs"])
def test_a_folder_that_is_missing_is_one_line(overlay: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="data_root: mandatory value is missing"):
        load_config(MODELS[0], OVERLAYS / f"{overlay}.yaml")
    with pytest.raises(DataError, match=r"data\.params\.train.*'.*nowhere' does not exist") as told:
        data_of(MODELS[0], OVERLAYS / f"{overlay}.yaml", data_root=tmp_path / "nowhere")
    assert "\n" not in str(told.value)


# -- the wrapper ------------------------------------------------------------------------------


def test_batches_are_the_same_with_any_number_of_workers(tmp_path: Path) -> None:
    for i in range(6):
        photograph(tmp_path / f"{i}.png")

    def batches(workers: int) -> list[Tensor]:
        images = ImageFolder(tmp_path, 16, split="all", crop="random", crop_scale=(0.5, 1))
        data = Inpainting(images, lama_masks("medium-256"))
        loader = DataLoader(data, 3, num_workers=workers, persistent_workers=workers > 0)
        seen = []
        for epoch in (0, 1):
            data.set_epoch(epoch)
            for batch in loader:
                check({key: value[0] for key, value in batch.items()}, 16, 16)
                seen.append(torch.cat([batch["image"], batch["mask"]], 1))
        return seen

    alone, helped = batches(0), batches(2)
    assert all(torch.equal(a, b) for a, b in zip(alone, helped, strict=True))
    # crops and masks are new in the second epoch
    assert (alone[0] != alone[2])[:, :3].any()
    assert (alone[0] != alone[2])[:, 3:].any()


def test_images_of_any_channels() -> None:
    class Bands(Dataset[dict[str, Any]]):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> dict[str, Any]:
            return {"image": torch.full((12, 16, 24), index / 2)}

    item = Inpainting(Bands(), lama_masks("training-256"))[1]
    assert item["masked_image"].shape == (12, 16, 24)
    assert set(item["masked_image"].unique().tolist()) == {-1.0, 0.5}


def test_what_is_no_data_set_of_images() -> None:
    class Words(Dataset[dict[str, Any]]):
        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> dict[str, Any]:
            return {"caption": "no image"}

    class Refusing(Words):
        def __getitem__(self, index: int) -> dict[str, Any]:
            raise DataError("too small")

    masks = lama_masks("training-256")
    with pytest.raises(DataError, match="item 0 of Words has no 'image'"):
        Inpainting(Words(), masks)[0]
    with pytest.raises(DataError, match="Refusing refuses all of its 1 items"):
        Inpainting(Refusing(), masks, refused="skip")[0]
    with pytest.raises(DataError, match="refused 'never' is not one of error, skip"):
        Inpainting(Words(), masks, refused="never")

    class Stream(IterableDataset[dict[str, Any]]):
        def __len__(self) -> int:
            return 3

        def __iter__(self) -> Iterator[dict[str, Any]]: ...

    for images in (object(), Stream()):
        with pytest.raises(DataError, match="has no items by number"):
            Inpainting(images, masks)
    with pytest.raises(IndexError, match="item 3 of a set of 3"):
        Inpainting(SceneDataset(32, 3), masks)[3]
