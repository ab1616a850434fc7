"""Data sets that add a hole or a small copy to the images of another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from ldm.data.folder import ImageFolder
from ldm.data.inpainting.dataset import Inpainting
from ldm.data.inpainting.masks import lama_masks
from ldm.data.scenes.dataset import SceneDataset
from ldm.data.super_resolution.bicubic import Bicubic
from ldm.data.super_resolution.dataset import SuperResolution
from ldm.errors import DataError


class Broken(Dataset[dict[str, Any]]):
    """Every third image cannot be read."""

    def __init__(self) -> None:
        self.scenes = SceneDataset(32, 9)

    def __len__(self) -> int:
        return 9

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index % 3 == 1:
            raise DataError(f"image {index} is damaged")
        return self.scenes[index]


def test_a_hole_and_the_masked_image() -> None:
    scenes = SceneDataset((32, 48), 5)
    data = Inpainting(scenes, lama_masks("thick-256"))
    assert len(data) == 5
    for index in range(5):
        item, image = data[index], scenes[index]["image"]
        assert item["mask"].shape == (1, 32, 48)
        assert set(item["mask"].unique().tolist()) == {0.0, 1.0}
        hole = item["mask"].expand(3, -1, -1) == 1
        assert (item["masked_image"][hole] == -1).all()
        assert torch.equal(item["masked_image"][~hole], image[~hole])
        assert item["caption"] == scenes[index]["caption"]


def test_masks_depend_on_seed_epoch_and_index_only() -> None:
    def masks(seed: int, epoch: int | None) -> list[bytes]:
        data = Inpainting(SceneDataset(32, 4), lama_masks("thick-256"), seed)
        if epoch is not None:
            data.set_epoch(epoch)
        order = [2, 0, 1, 3] if epoch else [0, 1, 2, 3]
        found = {k: data[k]["mask"].numpy().tobytes() for k in order}
        return [found[k] for k in range(4)]

    assert masks(0, None) == masks(0, None)
    assert masks(0, 1) == masks(0, 1)
    assert masks(0, 1) != masks(0, 2) != masks(1, 2)
    assert len(set(masks(0, 0))) == 4


def test_a_small_copy() -> None:
    scenes = SceneDataset(32, 3)
    data = SuperResolution(scenes, Bicubic(4))
    image = scenes[1]["image"]
    small = data[1]["lr_image"]
    assert small.shape == (3, 8, 8)
    assert small.abs().max() <= 1
    means = torch.nn.functional.avg_pool2d(image[None], 4)[0]
    assert (small - means).abs().mean() < 0.1
    assert torch.equal(data[1]["image"], image)


@pytest.mark.parametrize("wrap", ["inpainting", "super_resolution"])
def test_damaged_images_are_passed_over_or_told(wrap: str) -> None:
    def data(refused: str) -> Any:
        if wrap == "inpainting":
            return Inpainting(Broken(), lama_masks("thick-256"), refused=refused)
        return SuperResolution(Broken(), Bicubic(4), refused=refused)

    with pytest.raises(DataError, match="image 4 is damaged"):
        data("error")[4]
    kind = data("skip")
    assert torch.equal(kind[4]["image"], Broken()[5]["image"])
    assert torch.equal(kind[5]["image"], Broken()[5]["image"])
    assert sum(kind.skips.counts().values()) == 1


def test_where_all_are_refused_the_reason_is_told(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    images = ImageFolder(tmp_path, 16, split="all", small="error")
    with pytest.raises(
        DataError, match=r"refuses all of its 1 items; the first: .*a.png' of 8 x 8"
    ):
        SuperResolution(images, Bicubic(4), refused="skip")[0]
