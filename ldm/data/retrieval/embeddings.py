"""Embeddings of all images of a folder: made once, kept in one file, brought up to date.

Nothing here knows the network: an ``encode`` function makes embeddings of images. What was
interrupted goes on where it stopped, and only images that are new or changed are embedded again.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.containers.tensors import read_table, write_table
from ldm.data.framing import Framing, to_tensor
from ldm.data.image_io import read_image
from ldm.data.listing import list_folder
from ldm.errors import DamagedFileError, DataError
from ldm.files import path_from, reason, shown
from ldm.locks import sole_writer

Encode: TypeAlias = Callable[[Tensor], Tensor]
"""``encode(images (B, 3, side, side) in [-1, 1]) -> embeddings (B, D)`` of any length."""

BATCHES_PER_PART = 64
"""So many are lost at most where the work is interrupted."""
SUFFIX = ".safetensors"
ROOT_FROM_HERE = "root_from_here"
"""What a file says of the folder, as a path from its own: both may have been moved together."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EmbeddingStore:
    """Embeddings of the images of a folder.

    Attributes:
        files: paths below the folder.
        vectors: one for each file (N, D), float32 of length 1.
        encoder: which network made them, e.g. its name and the hash of its weights.
        sizes: bytes of every file of the folder, also of those that could not be read, by path.
        root: the folder: where it lies from the file, else where it was then.
    """

    files: tuple[str, ...]
    vectors: Tensor
    encoder: str
    sizes: dict[str, int]
    root: str

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of files and vectors: what is made of them belongs to no others."""
        names = "\n".join(self.files).encode("utf-8", "surrogateescape")
        digest = hashlib.sha256(names)
        digest.update(self.vectors.contiguous().numpy().data)
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """Write a ``.safetensors`` file, complete or not at all."""
        about = {name: getattr(self, name) for name in ("files", "encoder", "sizes", "root")}
        about[ROOT_FROM_HERE] = path_from(path.parent, self.root)
        write_table(path, {"vectors": self.vectors}, about)

    @staticmethod
    def load(path: Path) -> EmbeddingStore:
        """Read what ``save`` wrote.

        Raises:
            DataError: it is missing, damaged or something else.
        """
        try:
            return _store(*read_table(path), path.parent)
        except FileNotFoundError:
            raise DataError(f"embeddings {shown(path)}: no such file") from None
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            why = reason(error.__cause__ or error)
            raise DataError(
                f"embeddings {shown(path)}: not a file of embeddings ({why}): delete it, and "
                "scripts/build_index.py makes it anew"
            ) from error

    def check_encoder(self, encoder: str, path: Path) -> None:
        """Refuse embeddings of another network.

        Raises:
            DataError: it names both, and the file ``path`` they were read from.
        """
        if self.encoder != encoder:
            raise DataError(
                f"embeddings {shown(path)} were made by {self.encoder}, not by {encoder}: delete "
                "the file to embed the images anew, or name that encoder"
            )

    def check_folder(self, root: Path, path: Path) -> None:
        """Refuse a folder whose images, by path and number of bytes, are others than then.

        Raises:
            DataError: it names the first difference, and the file ``path``.
        """
        sizes = file_sizes(root, list_folder(root).images)
        if sizes == self.sizes:
            return
        other = min(name for name, _ in sizes.items() ^ self.sizes.items())
        what = "new" if other not in self.sizes else "changed" if other in sizes else "gone"
        raise DataError(
            f"embeddings {shown(path)} are not those of {shown(root)} any more "
            f"({shown(other)} is {what}): delete the file to embed the images anew"
        )


def _store(tensors: Mapping[str, Tensor], about: Mapping[str, Any], folder: Path) -> EmbeddingStore:
    """What a file in a folder holds, as far as that can be."""
    files, sizes, vectors = tuple(about["files"]), dict(about["sizes"]), tensors["vectors"]
    root, from_here = about["root"], about.get(ROOT_FROM_HERE, "")
    if not all(isinstance(text, str) for text in (*files, about["encoder"], root, from_here)):
        raise TypeError("its names are no texts")
    if vectors.ndim != 2 or len(vectors) != len(files) or vectors.dtype != torch.float32:
        raise ValueError(f"{vectors.dtype} {tuple(vectors.shape)} for {len(files)} files")
    place = os.path.normpath(os.path.join(os.path.realpath(folder), from_here))
    if from_here and os.path.isdir(place):
        root = place
    return EmbeddingStore(files, vectors, about["encoder"], sizes, root)


def stored(path: Path) -> EmbeddingStore | None:
    """What a file holds; None: there is none, or it is damaged and to be made anew, which is said.

    Raises:
        DataError: it is a whole file of another kind, which must not be lost.
    """
    if not os.path.lexists(path):
        return None
    try:
        return EmbeddingStore.load(path)
    except DataError as error:
        if path.suffix != SUFFIX or not isinstance(error.__cause__, DamagedFileError):
            raise
        _log.warning("embeddings %s are made anew", error.__cause__)
        return None


def file_sizes(root: Path, files: Sequence[str]) -> dict[str, int]:
    """Bytes of files below a folder, by path."""
    return {name: (root / name).stat().st_size for name in files}


@dataclass(frozen=True)
class Embedder:
    """Makes embeddings of image files, resized and cropped to their middle square.

    Attributes:
        encode: the network.
        name: what it is called, see ``EmbeddingStore.encoder``.
        side: of the images that it takes, in pixels.
        batch_size: images at once.
        threads: that read images; the result does not depend on it.
    """

    encode: Encode
    name: str
    side: int
    batch_size: int = 64
    threads: int = 1

    def __call__(self, root: Path, sizes: Mapping[str, int]) -> EmbeddingStore:
        """Those of files below a folder, given with their bytes; broken ones are left out."""
        files = list(sizes)
        with ThreadPoolExecutor(self.threads) as pool:
            read = list(pool.map(self._read, [root / name for name in files]))
        kept = [name for name, image in zip(files, read, strict=True) if image is not None]
        vectors = torch.empty(0, 0)
        if kept:
            images = torch.stack([image for image in read if image is not None])
            vectors = normalised(self.encode(images))
        return EmbeddingStore(tuple(kept), vectors, self.name, dict(sizes), str(root.resolve()))

    def _read(self, path: Path) -> Tensor | None:
        try:
            return square_image(path, self.side)
        except DataError as error:
            _log.warning("left out: %s", error)
            return None


def embed_folder(
    root: Path,
    embed: Embedder,
    known: Sequence[EmbeddingStore] = (),
    keep: Callable[[EmbeddingStore], None] | None = None,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> EmbeddingStore:
    """Embed all images of a folder.

    Args:
        root: the folder; nested ones are read.
        embed: makes the embeddings.
        known: stores whose embeddings are taken over where path and number of bytes are the same.
        keep: is given what is new, part by part.
        progress: wraps the iteration over batches like tqdm.

    Raises:
        DataError: no image can be read.
    """
    files = list_folder(root).images
    sizes = file_sizes(root, files)
    found: dict[str, Tensor | None] = {}
    for store in known:
        found.update(_still_valid(store, sizes))
    todo = [name for name in files if name not in found]
    part: list[EmbeddingStore] = []
    starts = range(0, len(todo), embed.batch_size)
    for start in progress(starts):
        batch = todo[start : start + embed.batch_size]
        part.append(embed(root, {name: sizes[name] for name in batch}))
        if len(part) == BATCHES_PER_PART or start == starts[-1]:
            new = _joined(part)
            found.update(_still_valid(new, sizes))
            if keep is not None:
                keep(new)
            part = []
    kept = [(name, vector) for name in files if (vector := found[name]) is not None]
    if not kept:
        raise DataError(
            f"image folder '{shown(root)}': none of its {len(files)} images can be read"
        )
    vectors = torch.stack([vector for _, vector in kept])
    names = tuple(name for name, _ in kept)
    return EmbeddingStore(names, vectors, embed.name, sizes, str(root.resolve()))


def embed_into(
    file: Path,
    root: Path,
    embed: Embedder,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> EmbeddingStore:
    """Embed a folder into a file, or bring that file up to date; see ``embed_folder``.

    What is done lies in ``FILE.parts`` until the file is complete, so that a call that was
    interrupted goes on when it is repeated.

    Raises:
        DataError: the file is of another network or another folder, or no image can be read.
        UserError: another process is making it.
    """
    folder = file.with_name(f"{file.name}.parts")
    with sole_writer(folder, first=True):
        old = stored(file)
        if old is not None:
            old.check_encoder(embed.name, file)
            if old.root != str(root.resolve()):
                old.check_folder(root, file)
        paths = sorted(folder.glob(f"*{SUFFIX}"))
        parts = [part for path in paths if (part := stored(path)) is not None]
        free = (folder / f"{n:06d}{SUFFIX}" for n in itertools.count())

        def keep(new: EmbeddingStore) -> None:
            new.save(next(path for path in free if not path.exists()))

        known = [part for part in parts if part.encoder == embed.name and _is_of(part, root)]
        store = embed_folder(root, embed, [old, *known] if old else known, keep, progress)
        if old is None or store.sizes != old.sizes:
            store.save(file)
        for path in folder.glob(f"*{SUFFIX}"):
            path.unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()
    return store


def _is_of(part: EmbeddingStore, root: Path) -> bool:
    """Whether embeddings are of this folder and no other, whose files may have the same names."""
    return Path(part.root).resolve() == root.resolve()


def square_image(path: Path, side: int) -> Tensor:
    """The middle square of an image file, as (3, side, side) in [-1, 1].

    Raises:
        DataError: it cannot be read.
    """
    image, _ = read_image(path, at_least=side)
    return to_tensor(Framing(side, side)(image, lambda: 0.0))


def normalised(vectors: Tensor) -> Tensor:
    """Vectors (B, D) at length 1, float32 on the CPU.

    Raises:
        DataError: one has no direction: it is zero or not finite.
    """
    vectors = F.normalize(vectors.float().cpu(), dim=1)
    lengths = vectors.norm(dim=1)
    if not torch.isclose(lengths, torch.ones_like(lengths), atol=1e-3).all():
        raise DataError("the encoder gave an embedding that is zero or not finite")
    return vectors


def _still_valid(store: EmbeddingStore, sizes: dict[str, int]) -> dict[str, Tensor | None]:
    """Embeddings of files that have the same number of bytes now; None: it cannot be read."""
    vectors = dict(zip(store.files, store.vectors, strict=True))
    same = [name for name, size in store.sizes.items() if sizes.get(name) == size]
    return {name: vectors.get(name) for name in same}


def _joined(stores: Sequence[EmbeddingStore]) -> EmbeddingStore:
    """Stores of other files of one folder as one."""
    files = tuple(name for store in stores for name in store.files)
    sizes = {name: size for store in stores for name, size in store.sizes.items()}
    read = [store.vectors for store in stores if store.files]
    vectors = torch.cat(read) if read else torch.empty(0, 0)
    return EmbeddingStore(files, vectors, stores[0].encoder, sizes, stores[0].root)
