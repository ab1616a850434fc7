from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ldm.data.retrieval import embeddings as folder_embedding
from ldm.data.retrieval.embeddings import Embedder, EmbeddingStore, embed_folder, embed_into
from ldm.errors import DataError


class Counting:
    """Mean colours; counts images, and is interrupted after some."""

    def __init__(self, stop_after: int = 1000) -> None:
        self.seen, self.stop_after = 0, stop_after

    def __call__(self, images: Tensor) -> Tensor:
        if self.seen + len(images) > self.stop_after:
            raise KeyboardInterrupt
        self.seen += len(images)
        return images.mean((2, 3)) + 2


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    root.mkdir()
    for k in range(10):
        picture(root / f"{k}.png", k)
    return root


def picture(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (8 + seed % 3, 12, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def embedder(
    encode: Callable[[Tensor], Tensor], name: str = "colour", threads: int = 1
) -> Embedder:
    return Embedder(encode, name, side=8, batch_size=2, threads=threads)


def same(first: EmbeddingStore, second: EmbeddingStore) -> bool:
    names = ("files", "encoder", "sizes", "root")
    equal = all(getattr(first, name) == getattr(second, name) for name in names)
    return equal and torch.equal(first.vectors, second.vectors)


def test_an_interrupted_call_goes_on(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_embedding, "BATCHES_PER_PART", 2)
    file = tmp_path / "e.safetensors"
    (photos / "3.png").write_bytes(b"no image")  # found out in the first part, and not tried again
    whole = embed_folder(photos, embedder(Counting()))
    with pytest.raises(KeyboardInterrupt):
        embed_into(file, photos, embedder(Counting(stop_after=6)))
    assert not file.exists()
    (photos / "2.png").unlink()
    picture(photos / "2.png", 2 + 1)  # of another size: what was kept of it is not used
    rest = Counting()
    store = embed_into(file, photos, embedder(rest))
    assert rest.seen == 7  # 2 and 4 to 9
    assert [path.name for path in tmp_path.iterdir()] in (
        ["photos", "e.safetensors"],
        ["e.safetensors", "photos"],
    )
    assert same(EmbeddingStore.load(file), store)
    assert same(store, embed_folder(photos, embedder(Counting())))
    others = [k for k, name in enumerate(whole.files) if name != "2.png"]
    assert torch.equal(store.vectors[others], whole.vectors[others])


def test_only_what_is_new_is_embedded(photos: Path, tmp_path: Path) -> None:
    file = tmp_path / "e.safetensors"
    embed_into(file, photos, embedder(Counting()))
    before = file.stat().st_mtime_ns
    nothing = Counting()
    embed_into(file, photos, embedder(nothing))
    assert (nothing.seen, file.stat().st_mtime_ns) == (0, before)
    picture(photos / "a.png", 11)
    (photos / "5.png").unlink()
    new = Counting()
    embed_into(file, photos, embedder(new))
    assert new.seen == 1
    assert same(EmbeddingStore.load(file), embed_folder(photos, embedder(Counting())))
    assert len(EmbeddingStore.load(file).files) == 10


def test_threads_change_nothing(photos: Path) -> None:
    stores = [embed_folder(photos, embedder(Counting(), threads=n)) for n in (1, 3)]
    assert same(*stores)


def test_embeddings_of_something_else_are_not_overwritten(photos: Path, tmp_path: Path) -> None:
    file = tmp_path / "e.safetensors"
    embed_into(file, photos, embedder(Counting()))
    before = file.read_bytes()
    with pytest.raises(DataError, match="were made by colour, not by CLIP"):
        embed_into(file, photos, embedder(Counting(), "CLIP"))
    other = tmp_path / "other"
    other.mkdir()
    picture(other / "0.png", 0)
    with pytest.raises(DataError, match=r"not those of .*other any more"):
        embed_into(file, other, embedder(Counting()))
    assert file.read_bytes() == before
    photos.rename(tmp_path / "moved")  # the same images elsewhere are the same
    nothing = Counting()
    embed_into(file, tmp_path / "moved", embedder(nothing))
    assert nothing.seen == 0
