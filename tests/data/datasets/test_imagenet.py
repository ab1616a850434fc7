from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ldm.data.datasets.base import FramedImages
from ldm.data.datasets.imagenet import ImageNet
from ldm.data.framing import make_framing
from ldm.errors import DataError

SYNSETS = ("n01440764", "n01443537", "n06596364")


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    root = tmp_path / "train"
    for i, synset in enumerate(SYNSETS):
        (root / synset).mkdir(parents=True)
        for k in range(2):
            grey = Image.new("RGB", (20, 16), (40 * i + 10 * k,) * 3)
            grey.save(root / synset / f"{synset}_{k}.JPEG", quality=100)
    Image.new("RGB", (8, 8)).save(root / "n06596364" / "n06596364_9591.JPEG")
    return root


@pytest.fixture
def archives(folders: Path) -> Path:
    root = folders.parent / "archives"
    root.mkdir()
    for synset in SYNSETS:
        with tarfile.open(root / f"{synset}.tar", "w") as tar:
            for file in sorted((folders / synset).iterdir(), reverse=True):
                tar.add(file, file.name)
    return root


def images(source: ImageNet) -> list[dict[str, Any]]:
    data = FramedImages(source, make_framing(16))
    return [data[i] for i in range(len(data))]


def test_folders_and_archives_give_the_same(folders: Path, archives: Path) -> None:
    for root in (folders, archives):
        items = images(ImageNet(root, num_classes=3))
        assert [item["class_label"] for item in items] == [0, 0, 1, 1, 2, 2]
        greys = [round(float((item["image"].mean() + 1) * 127.5)) for item in items]
        assert greys == pytest.approx([0, 10, 40, 50, 80, 90], abs=1)
    assert "n01440764.tar:n01440764_0.JPEG" in ImageNet(archives, 3).name(0)


def test_the_dropped_file_may_be_kept(folders: Path) -> None:
    assert len(ImageNet(folders, 3)) == 6
    assert len(ImageNet(folders, 3, exclude=())) == 7


def test_a_file_of_synsets_decides_the_ids(folders: Path) -> None:
    names = folders.parent / "LOC_synset_mapping.txt"
    names.write_text("n06596364 comic book\nn00000001 nothing\nn01440764 tench, Tinca\nn01443537\n")
    source = ImageNet(folders, 4, names)
    assert source.classes == ("nothing", "tench, Tinca", "n01443537", "comic book")
    assert [source.entries(i, float)["class_label"] for i in range(6)] == [1, 1, 2, 2, 3, 3]
    names.write_text("n01440764 tench\n")
    with pytest.raises(DataError, match=r"n01443537' is no class of .*mapping.txt"):
        ImageNet(folders, None, names)
    names.write_text("tench\n")
    with pytest.raises(DataError, match="line 1: 'tench' does not begin with a synset"):
        ImageNet(folders, None, names)


def test_what_does_not_fit_is_named(folders: Path, archives: Path) -> None:
    with pytest.raises(DataError, match="has 3 classes, but num_classes says 1000"):
        ImageNet(folders)
    with pytest.raises(DataError, match="does not exist"):
        ImageNet(folders / "x")
    Image.new("RGB", (8, 8)).save(folders / "ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(DataError, match=r"val_00000001.JPEG' lies in no folder of a synset"):
        ImageNet(folders, 3)
    (archives / "ILSVRC2012_img_train.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"img_train.tar' is no archive of one synset"):
        ImageNet(archives, 3)


def test_a_damaged_archive_and_a_damaged_image(archives: Path) -> None:
    path = archives / "n01440764.tar"
    whole = path.read_bytes()
    source = ImageNet(archives, 3)
    path.write_bytes(whole[:700])
    assert [item["class_label"] for item in images(source)] == [1, 1, 1, 1, 2, 2]
    path.write_bytes(b"\x1f\x8b" + whole)
    with pytest.raises(DataError, match=r"cannot read archive .*n01440764.tar.*uncompressed"):
        ImageNet(archives, 3)
