from __future__ import annotations

import io
import json
import os
import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from ldm.data.folder import ImageFolder
from ldm.errors import DataError, UserError
from ldm.evaluation.networks.resizing import to_uint8
from ldm.evaluation.sources.base import ContentCache, CorruptImages, ImageSource, read_ahead
from ldm.evaluation.sources.dataset import DatasetSource
from ldm.evaluation.sources.folder import FolderSource
from ldm.evaluation.sources.open import open_source
from ldm.evaluation.sources.statistics import StoredStatistics

Images = list[np.ndarray]


def pictures(count: int = 7, height: int = 6, width: int = 5, seed: int = 0) -> Images:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(count)]


def encoded(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def folder(root: Path, images: Images, names: list[str] | None = None) -> Path:
    for k, image in enumerate(images):
        path = root / (names[k] if names else f"{k:03d}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(image))
    return root


def shards(root: Path, images: Images, per_shard: int = 3, **more: Any) -> Path:
    """WebDataset shards; ``more``: texts of a sample by ending, made of its number."""
    root.mkdir(parents=True, exist_ok=True)
    for first in range(0, len(images), per_shard):
        with tarfile.open(root / f"{first:03d}.tar", "w") as tar:
            for k in range(first, min(first + per_shard, len(images))):
                files = {"png": encoded(images[k])}
                files |= {ending: make(k).encode() for ending, make in more.items()}
                for ending, data in files.items():
                    info = tarfile.TarInfo(f"{k:05d}.{ending}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return root


def opened(where: Path | str, **options: Any) -> ImageSource:
    source = open_source(str(where), **options)
    assert not isinstance(source, StoredStatistics)
    return source


def read(source: ImageSource, batch_size: int = 3, rank: int = 0, processes: int = 1) -> Any:
    """Images, labels and captions by index."""
    images, labels, captions = {}, {}, {}
    for batch in source.batches(batch_size, rank, processes):
        assert 1 <= len(batch.images) <= batch_size
        assert len(batch.images) == len(batch.indices)
        for k, index in enumerate(batch.indices):
            assert index not in images
            images[index] = batch.images[k]
            assert batch.images[k].dtype == torch.uint8
            labels[index] = None if batch.labels is None else batch.labels[k]
            captions[index] = None if batch.captions is None else batch.captions[k]
    return images, labels, captions


def assert_shows(source: ImageSource, images: Images) -> None:
    """It gives these images, in one process and in several, whatever the batch size."""
    assert len(source) == source.info.count == len(images)
    parts = [read(source, 2, rank, 3)[0] for rank in range(3)]
    for rank, part in enumerate(parts):
        assert list(part) == list(range(rank, len(images), 3))
    for got in (read(source)[0], read(source, 64)[0], {k: v for p in parts for k, v in p.items()}):
        assert sorted(got) == list(range(len(images)))
        for k, image in enumerate(images):
            assert np.array_equal(got[k].permute(1, 2, 0), image)


# -- every kind gives the same images ------------------------------------------------------------


def test_folder_npz_shards_and_data_set_give_the_same_images(tmp_path: Path) -> None:
    images = pictures()
    np.savez(tmp_path / "images.npz", np.stack(images))
    np.savez_compressed(tmp_path / "small.npz", np.stack(images))
    folder(tmp_path / "folder", images)
    shards(tmp_path / "shards", images)
    data = {"target": "ldm.data.ImageFolder", "params": {}}
    data["params"] = {"root": str(tmp_path / "folder"), "size": [6, 5], "split": "all"}
    (tmp_path / "data.yaml").write_text(json.dumps(data))
    kinds = {
        "folder": "folder",
        "images.npz": "npz",
        "small.npz": "npz",
        "shards": "shards",
        "shards/*.tar": "shards",
        "shards/{000,003,006}.tar": "shards",
        "data.yaml": "dataset",
    }
    for name, kind in kinds.items():
        source = opened(tmp_path / name)
        assert source.info.kind == kind
        assert source.info.where == str(tmp_path / name)
        assert source.info.about["sizes"] == {"height": [6, 6], "width": [5, 5]}
        assert_shows(source, images)
        few = opened(tmp_path / name, num=4)
        assert few.info.about["selection"] == "the first 4 of 7, in order"
        assert_shows(few, images[:4])
        assert few.info.sha256 != source.info.sha256
        with pytest.raises(UserError, match="it has 7; ask for 1 to 7"):
            opened(tmp_path / name, num=8)


def test_the_hash_follows_the_content(tmp_path: Path) -> None:
    images = pictures(4)
    a = folder(tmp_path / "a", images)
    same = opened(folder(tmp_path / "b", images)).info.sha256
    assert opened(a).info.sha256 == same  # wherever the folder lies
    (a / "002.png").write_bytes(encoded(images[2] // 2))
    assert opened(a).info.sha256 != same
    np.savez(tmp_path / "a.npz", np.stack(images))
    np.savez_compressed(tmp_path / "b.npz", np.stack(images))  # the same pixels
    np.savez(tmp_path / "c.npz", np.stack(images[::-1]))
    hashes = [opened(tmp_path / f"{name}.npz").info.sha256 for name in "abc"]
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_cache_remembers_the_hash_until_a_file_changes(tmp_path: Path) -> None:
    images = pictures(3)
    root, cache = folder(tmp_path / "a", images), tmp_path / "cache"
    info = opened(root, cache=cache).info
    (remembered,) = cache.iterdir()
    text = remembered.read_text()
    other = {**json.loads(text), "sha256": "f" * 64}
    del other["checksum"]  # as the last release wrote it
    remembered.write_text(json.dumps(other))
    assert opened(root, cache=cache).info.sha256 == "f" * 64  # it was not computed again
    changed = text.replace(info.sha256[:9], "f" * 9)
    for damage in (
        "{",
        "null",
        "[]",
        "5",
        "[" * 100_000,
        "{}",
        changed,
        text.replace("PNG", "PNH"),
    ):
        remembered.write_text(damage)
        assert opened(root, cache=cache).info == info
        assert remembered.read_text() == text
    remembered.unlink()
    os.mkfifo(remembered)
    assert opened(root, cache=cache).info == info
    os.utime(root / "001.png", (1, 1))
    assert opened(root, cache=cache).info == info
    assert len(list(cache.iterdir())) == 2
    assert opened(root, cache=cache, num=2).info.sha256 != info.sha256


# -- folders -------------------------------------------------------------------------------------


def test_nested_folders_give_classes_in_the_order_of_paths(tmp_path: Path) -> None:
    images = pictures(4)
    names = ["dog/x/1.png", "cat/2.png", "cat/10.PNG", "eel/1.png"]
    root = folder(tmp_path, images, names)
    order = [2, 1, 0, 3]
    assert_shows(opened(root), [images[k] for k in order])
    assert list(read(opened(root))[1].values()) == [0, 0, 1, 2]
    assert opened(root).info.about["labels"] == {"classes": 3, "fewest": 1, "most": 2}
    assert opened(root, num=2).info.about["labels"] == {"classes": 1, "fewest": 2, "most": 2}
    assert opened(root, classes="none").info.about["labels"] is None
    named = opened(root, classes=["ant", "cat", "dog", "eel"])  # here one class is missing
    assert list(read(named)[1].values()) == [1, 1, 2, 3]
    with pytest.raises(UserError, match="'eel'"):
        opened(root, classes=["cat", "dog"])


def test_sizes_and_formats_may_differ(tmp_path: Path) -> None:
    images = [*pictures(2, 6, 5), *pictures(1, 9, 4, seed=1)]
    folder(tmp_path, images)
    Image.fromarray(images[0]).save(tmp_path / "zz.jpg", quality=100)
    Image.fromarray(images[0][:, :, 0]).save(tmp_path / "zy.png")
    about = opened(tmp_path).info.about
    assert about["formats"] == {"PNG": 4, "JPEG": 1}
    assert about["modes"] == {"RGB": 4, "L": 1}
    assert about["sizes"] == {"height": [6, 9], "width": [4, 5]}
    got, _, _ = read(opened(tmp_path), 64)
    assert got[2].shape == (3, 9, 4)
    assert np.array_equal(got[3].permute(1, 2, 0), images[0][:, :, :1].repeat(3, 2))


def test_a_folder_of_samples_gives_what_its_record_says(tmp_path: Path) -> None:
    images = pictures(3)
    folder(tmp_path, [*images, images[0]], ["images/1.png", "images/0.png", "x.png", "grid.png"])
    samples = [
        {"file": "x.png", "label": 7, "prompt": "a dog", "seed": 0},
        {"file": "images/0.png", "label": 5, "prompt": "a cat", "seed": 1},
    ]
    settings = {"sampler": "ddim", "steps": 50, "run": "runs/x"}
    record = {"settings": settings, "made_by": [{"ldm": "1"}], "samples": samples}
    (tmp_path / "samples.json").write_text(json.dumps(record))
    source = opened(tmp_path)
    assert_shows(source, [images[2], images[1]])
    _, labels, captions = read(source)
    assert labels == {0: 7, 1: 5}
    assert captions == {0: "a dog", 1: "a cat"}
    assert source.info.about["settings"] == settings
    assert source.info.about["made_by"] == [{"ldm": "1"}]
    (tmp_path / "x.png").unlink()
    with pytest.raises(UserError, match=r"1 of the 2 images .* absent, first x\.png"):
        opened(tmp_path)
    (tmp_path / "samples.json").write_text("[]")
    with pytest.raises(UserError, match="not written by the sampling scripts"):
        opened(tmp_path)


def test_captions_beside_images(tmp_path: Path) -> None:
    folder(tmp_path, pictures(2))
    (tmp_path / "captions.json").write_text(json.dumps({"000.png": ["a", "b"], "001.png": "c"}))
    assert read(opened(tmp_path))[2] == {0: "a", 1: "c"}
    assert opened(tmp_path).info.about["captions"]


# -- unreadable images ---------------------------------------------------------------------------


def test_unreadable_images_are_all_named_at_the_end(tmp_path: Path) -> None:
    root = folder(tmp_path, pictures(20))
    whole = (root / "004.png").read_bytes()
    (root / "004.png").write_bytes(whole[:-40])
    (root / "011.png").write_bytes(b"no image")
    source, seen = opened(root), list[int]()
    message = r"2 of the 20 .*004\.png .*011\.png .*--skip-corrupt"
    with pytest.raises(CorruptImages, match=message):
        seen.extend(k for batch in source.batches(3) for k in batch.indices)
    assert seen == [k for k in range(20) if k not in (4, 11)]
    skipping = opened(root, skip_corrupt=True)
    for _ in range(2):
        assert list(read(skipping)[0]) == seen
    assert [name.split()[0] for name in skipping.corrupt] == ["004.png", "011.png"]
    assert skipping.info.about["formats"] == {"PNG": 19, "unreadable": 1}
    assert list(read(skipping, 3, 1, 2)[0]) == [k for k in seen if k % 2]


def test_nothing_but_unreadable_images_is_never_skipped(tmp_path: Path) -> None:
    for k in range(9):
        (tmp_path / f"{k}.png").write_bytes(b"?")
    with pytest.raises(CorruptImages, match=r"not one of the images .*4\.png .*, \.\.\.$"):
        read(opened(tmp_path, skip_corrupt=True))


def test_a_data_set_that_shows_another_image_instead_is_found_out(tmp_path: Path) -> None:
    images = pictures(6)
    root = folder(tmp_path, images)
    (root / "002.png").write_bytes(b"?")

    def source(skip: bool) -> DatasetSource:
        data = ImageFolder(root, (6, 5), split="all")
        return DatasetSource(data, "here", skip_corrupt=skip)

    for _ in range(2):  # the data set remembers the broken file
        with pytest.raises(CorruptImages, match=r"1 of the 6 .*002\.png \(unreadable\)"):
            read(source(False))
    skipping = source(True)
    for _ in range(2):
        assert list(read(skipping)[0]) == [0, 1, 3, 4, 5]
    assert skipping.corrupt == ["002.png (unreadable)"]


def test_damaged_shards(tmp_path: Path) -> None:
    images = pictures(9)
    root = shards(tmp_path / "whole", images)
    tar = tmp_path / "cut" / "000.tar"
    shutil.copytree(root, tar.parent)
    tar.write_bytes(tar.read_bytes()[:1636])  # within the second image
    with pytest.raises(CorruptImages, match=r"000\.tar"):
        read(opened(tar.parent))
    skipping = opened(tar.parent, skip_corrupt=True)
    assert np.array_equal(list(read(skipping)[0].values())[-1].permute(1, 2, 0), images[-1])
    (damage,) = skipping.corrupt
    assert re.match(r"000\.tar \(\d of its 2 samples: unexpected end of data", damage)
    root = shards(tmp_path / "spoilt", images)
    tar = root / "003.tar"
    data = bytearray(tar.read_bytes())
    start = data.find(b"IDAT") + 6
    data[start : start + 20] = bytes(20)
    tar.write_bytes(data)
    with pytest.raises(CorruptImages, match=r"1 of the 9 .*00003 of 003\.tar"):
        read(opened(root))
    assert list(read(opened(root, skip_corrupt=True))[0]) == [0, 1, 2, 4, 5, 6, 7, 8]


# -- shards --------------------------------------------------------------------------------------


def test_labels_and_captions_of_shards(tmp_path: Path) -> None:
    root = shards(tmp_path / "a", pictures(5), cls=lambda k: str(k % 2), txt=lambda k: f"no {k}")
    source = opened(root)
    assert read(source, 2, 1, 2)[1:] == ({1: 1, 3: 1}, {1: "no 1", 3: "no 3"})
    assert source.info.about["labels"] == {"classes": 2, "fewest": 2, "most": 3}
    root = shards(tmp_path / "b", pictures(2), json=lambda k: json.dumps({"caption": f"c{k}"}))
    assert read(opened(root))[1:] == ({0: None, 1: None}, {0: "c0", 1: "c1"})
    root = shards(tmp_path / "c", pictures(2), cls=lambda k: "x" if k else "1")
    with pytest.raises(DataError, match="class id b'x'"):
        read(opened(root))


# -- npz -----------------------------------------------------------------------------------------


def test_labels_and_grey_images_of_an_npz(tmp_path: Path) -> None:
    grey = np.stack(pictures(3))[:, :, :, :1]
    np.savez(tmp_path / "x.npz", grey, np.array([3, 1, 3]))
    source = opened(tmp_path / "x.npz")
    assert_shows(source, list(grey.repeat(3, 3)))
    assert read(source)[1] == {0: 3, 1: 1, 2: 3}
    assert source.info.about["modes"] == {"L": 3}
    assert source.info.about["labels"] == {"classes": 2, "fewest": 1, "most": 2}


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"arr_0": np.zeros((2, 4, 4, 3), np.float32)}, "float32, not uint8.* do it yourself"),
        ({"arr_0": np.zeros((2, 4, 4, 3), np.int64)}, "int64: images are uint8"),
        ({"arr_0": np.zeros((2, 3, 4, 4), np.uint8)}, r"transpose\(0, 2, 3, 1\)"),
        ({"arr_0": np.zeros((4, 4, 3), np.uint8)}, r"images are \(N, H, W, 3\)"),
        ({"arr_0": np.zeros((0, 4, 4, 3), np.uint8)}, "holds no images"),
        ({"arr_0": np.array([{}, {}], dtype=object)}, "object"),
        ({"pictures": np.zeros((2, 4, 4, 3), np.uint8)}, "holds pictures: .* arr_0"),
        ({"arr_0": np.zeros((2, 4, 4, 3), np.uint8), "arr_1": np.zeros(3, int)}, "arr_1"),
        (
            {"arr_0": np.zeros((2, 4, 4, 3), np.uint8), "arr_1": np.array([{}, {}], dtype=object)},
            "arr_1 cannot be read",
        ),
    ],
)
def test_an_npz_of_something_else_is_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray], reason: str
) -> None:
    np.savez(tmp_path / "x.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=reason) as raised:
        opened(tmp_path / "x.npz")
    assert "x.npz" in str(raised.value)


def test_a_damaged_npz(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, np.stack(pictures()))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="no npz file, or is cut short"):
        opened(path)
    path.write_bytes(whole[:300] + bytes([whole[300] ^ 1]) + whole[301:])
    with pytest.raises(UserError, match="damaged"):
        read(opened(path))


# -- data sets -----------------------------------------------------------------------------------


class Numbers(Dataset[dict[str, Any]]):
    """Images of one value, whose number is their class."""

    def __init__(self, values: list[float], channels: int = 3) -> None:
        self.values, self.channels = values, channels

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = torch.full((self.channels, 2, 2), self.values[index])
        return {"image": image, "class_label": index, "caption": f"no {index}"}


class Both:
    """A data module."""

    def __init__(self, train: Any, validation: Any) -> None:
        self.train, self.validation = train, validation


def test_floats_are_rounded_to_the_nearest() -> None:
    steps = torch.arange(256).float()
    every = (steps / 127.5 - 1).reshape(1, 16, 16)
    assert torch.equal(to_uint8(every), steps.to(torch.uint8).reshape(1, 16, 16).expand(3, -1, -1))
    near = torch.tensor([[[0.49, 0.51, 254.51, 300.0]]]) / 127.5 - 1
    assert to_uint8(near)[0].tolist() == [[0, 1, 255, 255]]


def test_labels_captions_and_rounding_of_a_data_set() -> None:
    source = DatasetSource(Numbers([-1.0, 0.0, 1.0], channels=1), "numbers")
    images, labels, captions = read(source)
    assert [int(image[2, 0, 0]) for image in images.values()] == [0, 128, 255]
    assert labels == {0: 0, 1: 1, 2: 2}
    assert captions == {0: "no 0", 1: "no 1", 2: "no 2"}
    about = source.info.about
    assert "nearest" in about["rounding"]
    assert about["labels"] == {"classes": 3, "fewest": 1, "most": 1}
    assert source.info.sha256 == DatasetSource(Numbers([-1, 0, 1]), "others").info.sha256


@pytest.mark.parametrize(
    ("values", "channels", "reason"),
    [
        ([0.0, 255.0], 3, r"item 1 of 'x' has values up to 255"),
        ([0.0, float("nan")], 3, "item 1 of 'x' holds values that are not finite"),
        ([0.0], 4, "item 0 of 'x' has no image of 1 or 3 channels"),
    ],
)
def test_data_that_are_no_images(values: list[float], channels: int, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        read(DatasetSource(Numbers(values, channels), "x"))


def test_the_split_of_a_yaml(tmp_path: Path) -> None:
    def node(values: list[float]) -> dict[str, Any]:
        return {"target": f"{__name__}.Numbers", "params": {"values": values}}

    file, absent = tmp_path / "data.yaml", {"target": "nowhere.Data"}
    parts = {"train": node([1.0]), "validation": node([-1.0, 0.0])}
    file.write_text(json.dumps({"data": {"target": f"{__name__}.Both", "params": parts}}))
    assert [len(opened(f"{file}{end}")) for end in ("", "#validation", "#train")] == [2, 2, 1]
    with pytest.raises(UserError, match="'test' is not one of validation, train"):
        opened(f"{file}#test")
    alone = {"data": {"target": f"{__name__}.Both", "params": parts | {"train": absent}}}
    file.write_text(json.dumps(alone))
    assert len(opened(file)) == 2  # the training set may be elsewhere
    file.write_text(json.dumps(node([0.0])))
    assert len(opened(file)) == 1
    with pytest.raises(UserError, match="'train'"):
        opened(f"{file}#train")
    file.write_text(json.dumps({"a": 1}))
    with pytest.raises(UserError, match="neither a data module"):
        opened(file)


def test_a_stream_of_shards_in_one_process(tmp_path: Path) -> None:
    from ldm.data.framing import make_framing
    from ldm.data.shards.dataset import Shards

    images = pictures(5, 6, 6)
    root = shards(tmp_path / "shards", images)
    stream = Shards(root, make_framing(6), caption=None, shuffle=False)
    source = DatasetSource(stream, "stream")
    assert [int(i.sum()) for i in read(source)[0].values()] == [int(i.sum()) for i in images]
    with pytest.raises(UserError, match=r"use one process, or name its shards"):
        read(source, 2, 0, 2)
    tar = root / "000.tar"
    data = bytearray(tar.read_bytes())
    start = data.find(b"IDAT") + 6
    data[start : start + 20] = bytes(20)
    tar.write_bytes(data)
    with pytest.raises(CorruptImages, match="in whose place others were shown again"):
        read(DatasetSource(stream, "stream"))


# -- what is no source ---------------------------------------------------------------------------


def test_what_is_no_source_is_refused_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty' holds no \.jpg"):
        opened(tmp_path / "empty")
    with pytest.raises(UserError, match="does not exist: give a folder of images, an npz"):
        opened(tmp_path / "absent")
    with pytest.raises(UserError, match=r"absent\.npz' does not exist"):
        opened(tmp_path / "absent.npz")
    with pytest.raises(UserError, match=r"absent\.tar"):
        opened(tmp_path / "absent.tar")
    with pytest.raises(UserError, match=r"absent\.yaml"):
        opened(tmp_path / "absent.yaml")
    (tmp_path / "x.pkl").write_bytes(b"")
    with pytest.raises(UserError, match="none of the known forms"):
        opened(tmp_path / "x.pkl")
    both = shards(folder(tmp_path / "both", pictures(1)), pictures(1))
    with pytest.raises(UserError, match=r"shards and images \(000\.png\)"):
        opened(both)
    run = folder(tmp_path / "run", pictures(1))
    for name in ("config.yaml", "status.json"):
        (run / name).write_text("{}")
    with pytest.raises(UserError, match="is a run"):
        opened(run)


# -- reading ahead -------------------------------------------------------------------------------


def test_reading_ahead_keeps_order_and_bounds_what_waits() -> None:
    begun = list[int]()

    def numbers() -> Any:
        for k in range(1000):
            begun.append(k)
            yield k

    results = read_ahead(lambda k: k * k, numbers())
    assert next(results) == 0
    assert len(begun) <= 64
    assert list(results) == [k * k for k in range(1, 1000)]
    with pytest.raises(ZeroDivisionError):
        list(read_ahead(lambda k: 1 / k, [1, 0]))


def test_a_folder_without_cache_remembers_nothing(tmp_path: Path) -> None:
    root = folder(tmp_path / "a", pictures(2))
    info = FolderSource(str(root), cache=ContentCache()).info
    assert info == opened(root).info
    assert list(tmp_path.iterdir()) == [root]
