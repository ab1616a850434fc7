from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldm.data.datasets.base import FramedImages
from ldm.data.datasets.faces import Faces
from ldm.data.framing import make_framing
from ldm.errors import DataError


def pixels(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (16, 16, 3), np.uint8)


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    (tmp_path / "train.txt").write_text("imgHQ00002.npy\nimgHQ00000.npy\n")
    (tmp_path / "validation.txt").write_text("imgHQ00001.npy\n")
    return tmp_path


def store(root: Path, form: str) -> Path:
    root = root / form
    root.mkdir()
    for number in range(3):
        if form == "npy":
            np.save(root / f"imgHQ{number:05}.npy", pixels(number).transpose(2, 0, 1)[None])
        elif form == "nested":
            (root / f"{number:05}").mkdir()
            Image.fromarray(pixels(number)).save(root / f"{number:05}" / f"{number:05}.png")
        else:
            Image.fromarray(pixels(number)).save(root / f"{number}.png")
    return root


@pytest.mark.parametrize("form", ["npy", "png", "nested"])
def test_every_form_goes_with_the_lists(lists: Path, form: str) -> None:
    root = store(lists, form)
    train = FramedImages(Faces(root, lists / "train.txt"), make_framing(16))
    held_out = FramedImages(Faces(root, lists / "validation.txt"), make_framing(16))
    assert (len(train), len(held_out)) == (2, 1)
    for item, number in ((train[0], 2), (train[1], 0), (held_out[0], 1)):
        got = ((item["image"] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
        assert np.array_equal(got, pixels(number))


def test_a_missing_list_says_what_it_is_and_where_it_is_had(lists: Path) -> None:
    root = store(lists, "png")
    with pytest.raises(DataError, match=r"no list of files .*x.txt'; the published split is in"):
        Faces(root, lists / "x.txt")


def test_missing_files_two_forms_and_other_arrays_are_named(lists: Path) -> None:
    root = store(lists, "png")
    (root / "2.png").unlink()
    with pytest.raises(DataError, match=r"lacks 1 of 2 files .* the first is 'imgHQ00002.npy'"):
        Faces(root, lists / "train.txt")
    np.save(root / "imgHQ00002.npy", np.zeros((16, 16), np.uint8))
    data = FramedImages(Faces(root, lists / "train.txt"), make_framing(16), broken="error")
    with pytest.raises(DataError, match=r"imgHQ00002.npy' must be bytes \(1, 3, H, W\)"):
        data[0]
    Image.new("RGB", (8, 8)).save(root / "00002.png")
    with pytest.raises(DataError, match="have the same number"):
        Faces(root, lists / "train.txt")
