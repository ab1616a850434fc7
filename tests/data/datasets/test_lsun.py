from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from ldm.data.datasets.base import FramedImages
from ldm.data.datasets.lsun import Database, Lsun
from ldm.data.framing import make_framing
from ldm.errors import DataError

lmdb = pytest.importorskip("lmdb")

KEYS = [f"{i:040x}" for i in range(6)]


def pixels(number: int) -> np.ndarray:
    shape = (30, 41, 3) if number % 2 else (43, 30, 3)
    return np.random.default_rng(number).integers(0, 256, shape, np.uint8)


def encoded(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels(number)).save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "church_outdoor_train_lmdb"
    with lmdb.open(str(path), map_size=1 << 20) as env, env.begin(write=True) as transaction:
        for i, key in enumerate(KEYS):
            transaction.put(key.encode(), encoded(i))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i, key in enumerate(KEYS):
        place = tmp_path / "images" / key[-1]
        place.mkdir(parents=True)
        (place / f"{key}.webp").write_bytes(encoded(i))
    return tmp_path / "images"


def images(source: Lsun) -> list[np.ndarray]:
    data = FramedImages(source, make_framing(16))
    tensors = (data[i]["image"] for i in range(len(data)))
    return [((x + 1) * 127.5).round().byte().permute(1, 2, 0).numpy() for x in tensors]


def published(number: int) -> np.ndarray:
    """Centre square and bicubic resize as in the original's lsun.py."""
    image = pixels(number)
    side = min(image.shape[:2])
    h, w = image.shape[:2]
    square = image[(h - side) // 2 : (h + side) // 2, (w - side) // 2 : (w + side) // 2]
    return np.array(Image.fromarray(square).resize((16, 16), Image.Resampling.BICUBIC))


def test_database_and_folder_give_the_published_images(database: Path, folder: Path) -> None:
    want = [published(i) for i in range(6)]
    for root in (database, folder):
        for got, wanted in zip(images(Lsun(root)), want, strict=True):
            assert np.array_equal(got, wanted)


@pytest.mark.parametrize("line", ["{}", "{}.webp", "church/0/1/{}.webp", "{}.jpg"])
def test_split_lists(database: Path, folder: Path, tmp_path: Path, line: str) -> None:
    names = tmp_path / "church_outdoor_val.txt"
    names.write_text("\n".join(line.format(KEYS[i]) for i in (4, 1)))
    for root in (database, folder):
        got = images(Lsun(root, names))
        assert [np.array_equal(a, published(i)) for a, i in zip(got, (4, 1), strict=True)] == [
            True,
            True,
        ]
    names.write_text("f" * 40)
    for root in (database, folder):
        with pytest.raises(DataError, match=r"lacks 'f{40}', an image of .*val.txt"):
            Lsun(root, names)
    with pytest.raises(DataError, match=r"x.txt'; the split of the original"):
        Lsun(database, tmp_path / "x.txt")


def test_a_share_is_held_out_alike(database: Path) -> None:
    parts = [Lsun(database, None, split, 0.4).names for split in ("train", "validation")]
    assert sorted(parts[0] + parts[1]) == KEYS
    assert parts[0]
    assert parts[1]


def test_workers_forked_and_spawned(database: Path) -> None:
    data = FramedImages(Lsun(database), make_framing(16))
    assert data[0]["image"].shape == (3, 16, 16)  # the parent has the database open
    batches = list(DataLoader(data, 2, num_workers=2))
    assert sum(len(batch["image"]) for batch in batches) == 6
    again = pickle.loads(pickle.dumps(data))
    assert np.array_equal(again[3]["image"].numpy(), data[3]["image"].numpy())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda whole: whole[: len(whole) * 3 // 4], r"cut short: data.mdb has \d+ of \d+ bytes"),
        (lambda whole: whole[:1000], "cannot read database"),
        (lambda whole: b"x" * len(whole), "cannot read database"),
    ],
)
def test_a_damaged_database(database: Path, damage: Callable[[bytes], bytes], message: str) -> None:
    file = database / "data.mdb"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DataError, match=message):
        Lsun(database)


def test_missing_and_damaged_images_are_passed_over(tmp_path: Path, database: Path) -> None:
    with lmdb.open(str(database), map_size=1 << 20) as env, env.begin(write=True) as transaction:
        transaction.put(KEYS[1].encode(), encoded(1)[:50])
    names = tmp_path / "list.txt"
    names.write_text("\n".join([KEYS[0], "e" * 40, KEYS[1], KEYS[2]]))
    data = FramedImages(Lsun(database, names), make_framing(16))
    assert np.array_equal(images(Lsun(database, names))[1], published(2))
    assert data[1]["image"].shape == (3, 16, 16)
    assert data.skips.counts() == {"unreadable": 1}
    assert Database(database).get("none") is None
