from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
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


def test_damaged_embeddings_are_void_and_made_anew(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "e.safetensors"
    whole = embed_into(file, photos, embedder(Counting()))
    before = bytearray(file.read_bytes())
    before[-20] ^= 1
    for content in (before, before[:100], b"", b"no tensors"):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"build_index\.py makes it anew"):
            EmbeddingStore.load(file)
        caplog.clear()
        assert same(embed_into(file, photos, embedder(Counting())), whole)
        assert f"{file} is damaged" in caplog.text
        assert same(EmbeddingStore.load(file), whole)
    save_file({"a": torch.zeros(3)}, file)  # whole, and of something else
    other = tmp_path / "picture.png"
    other.write_bytes(b"no tensors")
    for path in (file, other):
        content = path.read_bytes()
        with pytest.raises(DataError, match="not a file of embeddings"):
            embed_into(path, photos, embedder(Counting()))
        assert path.read_bytes() == content


def interrupted(photos: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of embeddings of a call that was stopped, with the parts that it left."""
    monkeypatch.setattr(folder_embedding, "BATCHES_PER_PART", 1)
    file = folder / "e.safetensors"
    with pytest.raises(KeyboardInterrupt):
        embed_into(file, photos, embedder(Counting(stop_after=6)))
    return file


def test_a_damaged_part_is_embedded_again(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = interrupted(photos, tmp_path, monkeypatch)
    part = file.with_name("e.safetensors.parts") / "000001.safetensors"
    part.write_bytes(part.read_bytes()[:-1])
    rest = Counting()
    store = embed_into(file, photos, embedder(rest))
    assert rest.seen == 6
    assert same(store, embed_folder(photos, embedder(Counting())))
    assert not part.parent.exists()


def test_two_calls_do_not_write_one_file(photos: Path, tmp_path: Path) -> None:
    def again(_: Tensor) -> Tensor:
        done = subprocess.run(
            [sys.executable, "-c", f"from ldm.locks import *; from pathlib import Path\n"
             f"with sole_writer(Path({str(tmp_path / 'e.safetensors.parts')!r}), True): pass"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        raise RuntimeError(done.stderr)

    with pytest.raises(RuntimeError, match="is being written by process"):
        embed_into(tmp_path / "e.safetensors", photos, embedder(again))


def test_names_that_are_not_utf8(photos: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9\n.png")
    (photos / "3.png").rename(photos / name)
    store = embed_into(tmp_path / "e.safetensors", photos, embedder(Counting()))
    assert name in store.files
    assert len(store.fingerprint) == 64
    read = EmbeddingStore.load(tmp_path / "e.safetensors")
    assert same(store, read)
    (photos / name).unlink()
    with pytest.raises(DataError, match=r"caf\\xe9") as raised:
        read.check_folder(photos, tmp_path / "e.safetensors")
    str(raised.value).encode()


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


def test_a_folder_is_found_from_its_embeddings(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    embed_into(Path("e.safetensors"), Path("photos"), embedder(Counting()))
    moved = tmp_path.with_name(f"{tmp_path.name}-moved")
    tmp_path.rename(moved)
    monkeypatch.chdir("/")
    assert EmbeddingStore.load(moved / "e.safetensors").root == str(moved / "photos")
    (moved / "only").mkdir()
    (moved / "e.safetensors").rename(moved / "only" / "e.safetensors")
    assert EmbeddingStore.load(moved / "only" / "e.safetensors").root == str(photos)
    picture(moved / "photos" / "new.png", 99)
    (moved / "only" / "e.safetensors").rename(moved / "e.safetensors")
    rest = Counting()
    embed_into(moved / "e.safetensors", moved / "photos", embedder(rest))
    assert rest.seen == 1  # it is the same folder, whose old pictures are known


def test_parts_of_another_folder_are_not_taken_over(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = interrupted(photos, tmp_path, monkeypatch)
    (tmp_path / "others").mkdir()
    for picture_file in photos.iterdir():  # same names and sizes
        (tmp_path / "others" / picture_file.name).write_bytes(picture_file.read_bytes())
    rest = Counting()
    embed_into(file, tmp_path / "others", embedder(rest))
    assert rest.seen == 10
