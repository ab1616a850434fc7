from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ldm.data.retrieval.embeddings import Embedder, EmbeddingStore, embed_folder, square_image
from ldm.data.retrieval.search import ExactSearch
from ldm.errors import DataError


def _vectors(count: int, width: int = 6, seed: int = 0) -> Tensor:
    vectors = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(vectors, dim=1)


def _encode(images: Tensor) -> Tensor:
    """Mean colour, at a length that does not matter."""
    return images.mean((2, 3)) * 3 + 5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    (root / "more").mkdir(parents=True)
    noise = np.random.default_rng(0)
    for name in ("b.png", "a.jpg", "more/c.png"):
        colour = noise.integers(0, 256, 3)
        pixels = np.broadcast_to(colour, (20, 30, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(root / name)
    return root


def _embed(root: Path, **options: int) -> EmbeddingStore:
    return embed_folder(root, Embedder(_encode, "mean colour", side=8, **options))


# -- search ----------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 7, 100, 1000])
def test_search_is_exact_whatever_the_chunk(chunk: int) -> None:
    database, queries = _vectors(100), _vectors(5, seed=1) * 7
    found = ExactSearch(database, chunk)(queries, 9)
    cosines = (queries / 7) @ database.T
    expected = np.argsort(-cosines.numpy(), axis=1, kind="stable")[:, :9]
    assert found.indices.tolist() == expected.tolist()
    torch.testing.assert_close(found.similarities, cosines.gather(1, torch.tensor(expected)))


@pytest.mark.parametrize("chunk", [1, 2, 3, 10])
def test_equal_images_come_in_their_order(chunk: int) -> None:
    database = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    found = ExactSearch(database, chunk)(torch.tensor([[0.0, 2.0]]), 4)
    assert found.indices.tolist() == [[0, 2, 3, 1]]
    assert found.similarities.tolist() == [[1.0, 1.0, 1.0, 0.0]]


def test_search_refuses_what_there_is_not() -> None:
    search = ExactSearch(_vectors(4))
    for k in (0, 5):
        with pytest.raises(DataError, match=f"cannot find {k} neighbours among 4 images"):
            search(_vectors(1), k)
    with pytest.raises(DataError, match=r"must be \(Q, 6\), got \(1, 5\)"):
        search(_vectors(1, width=5), 1)


# -- the store -------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_a_folder_becomes_unit_vectors_by_file(folder: Path, batch_size: int) -> None:
    store = _embed(folder, batch_size=batch_size)
    assert store.files == ("a.jpg", "b.png", "more/c.png")
    for file, vector in zip(store.files, store.vectors, strict=True):
        mean = np.asarray(Image.open(folder / file).convert("RGB")).mean((0, 1)) / 127.5 - 1
        expected = mean * 3 + 5
        assert vector.numpy() == pytest.approx(expected / np.linalg.norm(expected), abs=1e-3)


def test_images_are_cropped_to_the_middle(tmp_path: Path) -> None:
    pixels = np.zeros((16, 48, 3), np.uint8)
    pixels[:, 16:32] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    assert (square_image(tmp_path / "wide.png", 16) == 1).all()
    assert square_image(tmp_path / "wide.png", 4).shape == (3, 4, 4)


def test_a_store_is_read_back(folder: Path, tmp_path: Path) -> None:
    store, file = _embed(folder), tmp_path / "kept" / "e.safetensors"
    store.save(file)
    again = EmbeddingStore.load(file)
    assert (again.files, again.encoder, again.sizes) == (store.files, store.encoder, store.sizes)
    assert again.root == str(folder)
    assert torch.equal(again.vectors, store.vectors)
    assert [path.name for path in file.parent.iterdir()] == ["e.safetensors"]
    again.check_folder(folder, file)
    again.check_encoder("mean colour", file)


def test_another_encoder_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"e\.x were made by mean colour, not by CLIP: delete"):
        _embed(folder).check_encoder("CLIP", Path("e.x"))


@pytest.mark.parametrize("change", ["new", "changed", "gone"])
def test_a_folder_that_changed_is_refused(folder: Path, change: str) -> None:
    store = _embed(folder)
    if change == "new":
        Image.new("RGB", (9, 9)).save(folder / "d.png")
    elif change == "changed":
        Image.new("RGB", (90, 9)).save(folder / "b.png")
    else:
        (folder / "b.png").unlink()
    name = "d.png" if change == "new" else "b.png"
    with pytest.raises(DataError, match=re.escape(f"({name} is {change})")):
        store.check_folder(folder, Path("e.safetensors"))


def test_a_broken_image_is_left_out_and_said(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "aa.png").write_bytes(b"no image")
    with caplog.at_level(logging.WARNING):
        store = _embed(folder, batch_size=1)
    assert "aa.png" in caplog.text
    assert store.files == ("a.jpg", "b.png", "more/c.png")
    assert len(store.vectors) == 3
    store.check_folder(folder, Path("e"))
    for file in folder.rglob("*.*"):
        file.write_bytes(b"no image")
    with pytest.raises(DataError, match="none of its 4 images can be read"):
        _embed(folder)


def test_what_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        EmbeddingStore.load(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"no tensors at all")
    with pytest.raises(DataError, match=r"bad\.safetensors: not a file of embeddings"):
        EmbeddingStore.load(tmp_path / "bad.safetensors")


def test_embeddings_must_have_a_direction(folder: Path) -> None:
    with pytest.raises(DataError, match="zero or not finite"):
        embed_folder(folder, Embedder(lambda images: images.mean((2, 3)) * torch.nan, "x", side=8))
