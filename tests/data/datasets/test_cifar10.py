from __future__ import annotations

import io
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldm.data.datasets.base import FramedImages
from ldm.data.datasets.cifar10 import CLASSES, Cifar10
from ldm.data.framing import make_framing
from ldm.errors import DataError

SHARED = Path(__file__).parents[4] / "shared" / "data" / "cifar10"


def batch(path: Path, count: int, seed: int) -> np.ndarray:
    """Records as in the binary version: a label, then 1024 red, green and blue bytes."""
    values = np.random.default_rng(seed).integers(0, 256, (count, 3073), np.uint8)
    values[:, 0] %= 10
    path.parent.mkdir(parents=True, exist_ok=True)
    values.tofile(path)
    return values


@pytest.mark.parametrize("place", ["", "cifar-10-batches-bin"])
def test_binary_batches(tmp_path: Path, place: str) -> None:
    records = [batch(tmp_path / place / f"data_batch_{i}.bin", 3, i) for i in range(1, 6)]
    test = batch(tmp_path / place / "test_batch.bin", 2, 9)
    data = FramedImages(Cifar10(tmp_path), make_framing(32))
    assert len(data) == 15
    record = np.concatenate(records)[7]
    item = data[7]
    assert item["class_label"] == record[0]
    got = ((item["image"] + 1) * 127.5).round().byte().numpy()
    assert np.array_equal(got, record[1:].reshape(3, 32, 32))
    held_out = Cifar10(tmp_path, "test")
    assert [held_out.entries(i, float)["class_label"] for i in range(2)] == test[:, 0].tolist()
    assert data.classes[held_out.entries(0, float)["class_label"]] == CLASSES[test[0, 0]]


def test_archives(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (90, 90, 90)).save(buffer, "PNG")
    with tarfile.open(tmp_path / "train-0.tar", "w") as tar:
        for name in ("dog/1.png", "cat/2.png"):
            info = tarfile.TarInfo(name)
            info.size = len(buffer.getvalue())
            tar.addfile(info, io.BytesIO(buffer.getvalue()))
    data = FramedImages(Cifar10(tmp_path), make_framing(32))
    assert [data[i]["class_label"] for i in range(2)] == [3, 5]
    with tarfile.open(tmp_path / "train-1.tar", "w") as tar:
        info = tarfile.TarInfo("wolf/1.png")
        tar.addfile(info, io.BytesIO())
    with pytest.raises(DataError, match=r"train-1.tar:wolf/1.png' lies in no folder of a class"):
        Cifar10(tmp_path)


def test_what_is_not_there_or_damaged(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no CIFAR-10: it needs data_batch_1.bin"):
        Cifar10(tmp_path)
    with pytest.raises(DataError, match="split 'validation'"):
        Cifar10(tmp_path, "validation")
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").touch()
    with pytest.raises(DataError, match="take the binary version"):
        Cifar10(tmp_path)
    for i in range(1, 6):
        values = batch(tmp_path / f"data_batch_{i}.bin", 2, i)
    values[1, 0] = 10
    values.tofile(tmp_path / "data_batch_5.bin")
    with pytest.raises(DataError, match=r"batch_5.bin': class id 10 is outside 0 to 9"):
        Cifar10(tmp_path)
    (tmp_path / "data_batch_5.bin").write_bytes(b"x" * 100)
    with pytest.raises(DataError, match=r"batch_5.bin' has 100 bytes"):
        Cifar10(tmp_path)


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data/cifar10 is not here")
def test_the_archives_of_the_project() -> None:
    source = Cifar10(SHARED, "test")
    labels = [source.entries(i, float)["class_label"] for i in range(len(source))]
    assert Counter(labels) == dict.fromkeys(range(10), 1000)
    data = FramedImages(source, make_framing(32))
    assert 0.2 < data[1234]["image"].std() < 0.8
