from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from ldm.data.datasets.base import FramedImages
from ldm.data.datasets.lists import FileList
from ldm.data.folder import ImageFolder
from ldm.data.framing import Framing
from ldm.data.retrieval import dataset as neighbour_table
from ldm.data.retrieval.dataset import WithNeighbours, look_up
from ldm.data.retrieval.embeddings import Embedder, EmbeddingStore, embed_into
from ldm.data.retrieval.search import ExactSearch, ivf_index, save_index
from ldm.data.scenes.dataset import SceneDataset
from ldm.errors import DataError

COUNT = 12
WEIGHTS = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


def _encode(images: Tensor) -> Tensor:
    """Of the mean colour, width 4."""
    return images.mean((2, 3)) @ WEIGHTS + 0.1


def _folder(root: Path, count: int = COUNT, seed: int = 0) -> Path:
    noise = np.random.default_rng(seed)
    (root / "more").mkdir(parents=True)
    for k in range(count):
        pixels = np.broadcast_to(noise.integers(0, 256, 3), (20, 24, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(root / ("more" if k % 3 == 0 else ".") / f"{k:02}.png")
    return root


def _embed(root: Path, name: str = "mean colour") -> Path:
    file = root.with_name(f"{root.name}.safetensors")
    embed_into(file, root, Embedder(_encode, name, side=8))
    return file


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return _folder(tmp_path / "photos")


def _images(root: Path, split: str = "all", **options: Any) -> ImageFolder:
    return ImageFolder(root, 16, split, validation_fraction=0.4, classes="none", **options)


def _nearest(query: Tensor, vectors: Tensor, count: int) -> Tensor:
    """By sorting all cosines."""
    return vectors[(query @ vectors.T).argsort(descending=True)[:count]]


# -- neighbours ------------------------------------------------------------------------------


def test_items_are_those_of_the_images_with_their_nearest_others(photos: Path) -> None:
    (photos / "01.txt").write_text("a caption")
    file = _embed(photos)
    store, images = EmbeddingStore.load(file), _images(photos)
    data = WithNeighbours(images, file, count=3)
    assert len(data) == COUNT
    for k in range(COUNT):
        item, row = data[k], store.files.index(images.files[k])
        others = store.vectors[torch.arange(COUNT) != row]
        assert torch.equal(item["neighbours"], _nearest(store.vectors[row], others, 3))
        assert torch.equal(item["image"], images[k]["image"])
        assert item["caption"] == images[k]["caption"]
    assert item["neighbours"].shape == (3, 4)
    with pytest.raises(IndexError):
        data[COUNT]


def test_an_image_may_be_its_own_neighbour(photos: Path) -> None:
    file = _embed(photos)
    store, images = EmbeddingStore.load(file), _images(photos)
    data = WithNeighbours(images, file, count=COUNT, exclude_self=False)
    for k in range(COUNT):
        row = store.files.index(images.files[k])
        assert torch.equal(data[k]["neighbours"][0], store.vectors[row])
        assert data.neighbour_files(data[k]["neighbours"])[0] == photos / images.files[k]


def test_held_out_images_find_those_of_training_and_never_the_reverse(photos: Path) -> None:
    file = _embed(photos)
    store = EmbeddingStore.load(file)
    train, held_out = _images(photos, "train"), _images(photos, "validation")
    assert 3 < len(train) < COUNT - 1
    rows = [store.files.index(name) for name in train.files]
    data = WithNeighbours(held_out, file, count=3, among=train)
    for k, name in enumerate(held_out.files):
        query = store.vectors[store.files.index(name)]
        assert torch.equal(data[k]["neighbours"], _nearest(query, store.vectors[rows], 3))
    data = WithNeighbours(train, file, count=len(train) - 1)
    for k in range(len(train)):
        found = {str(f.relative_to(photos)) for f in data.neighbour_files(data[k]["neighbours"])}
        assert found == set(train.files) - {train.files[k]}


@pytest.mark.parametrize("among", [False, True])
def test_another_folder_as_database(among: bool, photos: Path, tmp_path: Path) -> None:
    file = _embed(photos)
    other = _embed(_folder(tmp_path / "other", 9, seed=1))
    store, database = EmbeddingStore.load(file), EmbeddingStore.load(other)
    images = _images(photos)
    given = {"among": _images(photos, "train")} if among else {}
    data = WithNeighbours(images, file, count=9, database=other, **given)
    for k in range(COUNT):
        query = store.vectors[store.files.index(images.files[k])]
        assert torch.equal(data[k]["neighbours"], _nearest(query, database.vectors, 9))
    assert data.neighbour_files(data[0]["neighbours"])[0].parent.name in ("other", "more")


def test_lists_of_files(photos: Path, tmp_path: Path) -> None:
    file = _embed(photos)
    (tmp_path / "list.txt").write_text("07.png\nmore/03.png\n01.png\ngone.png\n")
    images = FramedImages(FileList(photos, tmp_path / "list.txt"), Framing(16, 16))
    data, store = WithNeighbours(images, file, count=2), EmbeddingStore.load(file)
    rows = [store.files.index(name) for name in ("07.png", "more/03.png", "01.png")]
    vectors = store.vectors[rows]
    for k in range(3):
        nearest = _nearest(vectors[k], vectors[[i for i in range(3) if i != k]], 2)
        assert torch.equal(data[k]["neighbours"], nearest)
    assert torch.equal(data[3]["image"], data[0]["image"])  # the next one stands in
    assert data.skips.counts() == {"without an embedding": 1}


def test_many_that_may_not_be_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    """More are asked for until there are enough; batches make no difference."""
    vectors = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    vectors = vectors / vectors.norm(dim=1, keepdim=True)
    allowed = torch.zeros(200, dtype=torch.bool)
    order = (vectors @ vectors[0]).argsort(descending=True)
    allowed[order[-5:]] = True  # the five farthest from the first
    own = torch.arange(200)
    for size in (7, 1024):
        monkeypatch.setattr(neighbour_table, "QUERIES", size)
        found = look_up(ExactSearch(vectors), vectors, 4, own, allowed)
        assert found.shape == (200, 4)
        for row in range(200):
            expected = (vectors @ vectors[row]).masked_fill(~allowed, -2)
            expected[row] = -2
            assert found[row].tolist() == expected.argsort(descending=True)[:4].tolist()


# -- what goes wrong -------------------------------------------------------------------------


def test_images_that_break_are_passed_over_with_their_neighbours(photos: Path) -> None:
    (photos / "00a.png").write_bytes(b"no image")
    file = _embed(photos)
    images = _images(photos)
    names = list(images.files)
    data = WithNeighbours(images, file, count=2)
    whole = [data[k] for k in range(len(data))]
    k = names.index("00a.png")
    assert torch.equal(whole[k]["neighbours"], whole[k + 1]["neighbours"])
    assert torch.equal(whole[k]["image"], whole[k + 1]["image"])
    later = names.index("05.png")
    (photos / "05.png").write_bytes((photos / "05.png").read_bytes()[:-30])
    item = data[later]
    assert torch.equal(item["image"], whole[later + 1]["image"])
    assert torch.equal(item["neighbours"], whole[later + 1]["neighbours"])
    assert data.skips.counts() == {"without an embedding": 2}


@pytest.mark.parametrize("change", ["is new", "has changed"])
def test_a_folder_that_changed_is_refused(change: str, photos: Path) -> None:
    file = _embed(photos)
    name = "zz.png" if change == "is new" else "05.png"
    Image.new("RGB", (90, 30)).save(photos / name)
    with pytest.raises(DataError, match=rf"\({name} {change}\): run scripts/build_index\.py"):
        WithNeighbours(_images(photos), file, count=2)
    _embed(photos)
    assert len(WithNeighbours(_images(photos), file, count=2)) == len(list(photos.rglob("*.png")))


def test_too_few_neighbours(photos: Path) -> None:
    file = _embed(photos)
    for count in (0, COUNT):
        with pytest.raises(DataError, match=f"cannot find {count} neighbours of an image among 11"):
            WithNeighbours(_images(photos), file, count=count)


def test_what_does_not_go_together(photos: Path, tmp_path: Path) -> None:
    file = _embed(photos)
    with pytest.raises(DataError, match="SceneDataset is no data set of files"):
        WithNeighbours(SceneDataset(16, 4), file, count=2)
    other = _embed(_folder(tmp_path / "other", 9, seed=1), "another network")
    with pytest.raises(DataError, match=r"made by another network, .* by mean colour: they cannot"):
        WithNeighbours(_images(photos), file, count=2, database=other)
    with pytest.raises(DataError, match="no such file"):
        WithNeighbours(_images(photos), tmp_path / "none", count=2)


# -- what is kept ----------------------------------------------------------------------------


def test_neighbours_are_looked_up_once(
    photos: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = _embed(photos)
    images = _images(photos)
    first = WithNeighbours(images, file, count=3)
    (kept,) = photos.parent.glob("photos.*.neighbours.safetensors")
    assert not list(photos.parent.glob(".*"))
    with monkeypatch.context() as patch:
        patch.setattr(
            "ldm.data.retrieval.dataset.look_up", lambda *_: pytest.fail("looked up again")
        )
        again = WithNeighbours(images, file, count=3)
        for options in ({"count": 2}, {"count": 3, "exclude_self": False}):
            with pytest.raises(pytest.fail.Exception):
                WithNeighbours(images, file, **options)
        with pytest.raises(pytest.fail.Exception):
            WithNeighbours(_images(photos, "train"), file, count=3)
    for k in range(COUNT):
        assert torch.equal(first[k]["neighbours"], again[k]["neighbours"])
    kept.write_bytes(kept.read_bytes()[:100])
    with caplog.at_level(logging.WARNING):
        again = WithNeighbours(images, file, count=3)
    assert "is damaged and is made anew" in caplog.text
    assert torch.equal(first[5]["neighbours"], again[5]["neighbours"])
    kept.unlink()
    WithNeighbours(images, file, count=3, keep=False)
    assert not kept.exists()


def test_an_index_of_few_probes_finds_others(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    photos = _folder(tmp_path / "photos", 60)
    file = _embed(photos)
    store, images = EmbeddingStore.load(file), _images(photos)
    exact = WithNeighbours(images, file, count=5)
    for probes, same in ((20, True), (1, False)):
        save_index(ivf_index(store.vectors, 20, probes), store, tmp_path / "an.index")
        data = WithNeighbours(images, file, count=5, index=tmp_path / "an.index")
        found = [torch.equal(data[k]["neighbours"], exact[k]["neighbours"]) for k in range(60)]
        assert all(found) == same


def test_epochs_change_crops_and_workers_nothing(photos: Path) -> None:
    file = _embed(photos)
    for name in ("01.png", "02.png"):
        noise = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
        Image.fromarray(noise).save(photos / name)
    _embed(photos)
    data = WithNeighbours(_images(photos, crop="random"), file, count=3)
    batches = [next(iter(DataLoader(data, batch_size=COUNT, num_workers=n))) for n in (0, 2)]
    assert all(torch.equal(batches[0][key], batches[1][key]) for key in ("image", "neighbours"))
    data.set_epoch(1)
    batch = next(iter(DataLoader(data, batch_size=COUNT)))
    assert torch.equal(batch["neighbours"], batches[0]["neighbours"])
    assert not torch.equal(batch["image"], batches[0]["image"])


def test_a_dry_run_builds_it(photos: Path) -> None:
    file = _embed(photos)
    with torch.device("meta"):
        data = WithNeighbours(_images(photos), file, count=3)
    assert data[0]["neighbours"].device.type == "cpu"
