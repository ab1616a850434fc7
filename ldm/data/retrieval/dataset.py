"""Images with the embeddings of their neighbours in a database, for retrieval-augmented models.

Which images are the neighbours of which is looked up once and kept in a file beside the embeddings.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ldm.containers.tensors import read_table, write_table
from ldm.data.items import Skips, next_usable
from ldm.data.retrieval.embeddings import EmbeddingStore
from ldm.data.retrieval.search import ExactSearch, FaissSearch, Search, load_index
from ldm.errors import DataError
from ldm.files import reason, shown

QUERIES = 1024
"""So many are searched at once."""

NO_EMBEDDING = "without an embedding"

_log = logging.getLogger(__name__)


def look_up(
    search: Search,
    queries: Tensor,
    count: int,
    own: Tensor,
    allowed: Tensor,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Tensor:
    """Rows (Q, count), int64, of the nearest vectors that may be neighbours, the nearest first.

    Args:
        search: over N vectors.
        queries: embeddings (Q, D).
        count: neighbours of each.
        own: (Q,) the row that is the query itself and is no neighbour of it; -1: none.
        allowed: (N,) bool, which rows may be neighbours.
        progress: wraps the iteration over batches like tqdm.

    Raises:
        DataError: there are not so many.
    """
    at_most = int(allowed.sum()) - int(bool((own >= 0).any()))
    if not 1 <= count <= at_most:
        raise DataError(f"cannot find {count} neighbours of an image among {at_most} others")
    share = float(allowed.float().mean())
    asked = min(int((count + 1) / share) + 1, len(allowed))
    found = []
    for start in progress(range(0, len(queries), QUERIES)):
        part = slice(start, start + QUERIES)
        found.append(_nearest_allowed(search, queries[part], own[part], count, allowed, asked))
    return torch.cat(found)


def _nearest_allowed(
    search: Search, queries: Tensor, own: Tensor, count: int, allowed: Tensor, asked: int
) -> Tensor:
    """Ask for more until there are enough that may be neighbours."""
    while True:
        rows = search(queries, asked).indices
        good = allowed[rows] & (rows != own[:, None])
        if asked == len(allowed) or bool((good.sum(dim=1) >= count).all()):
            order = (~good).to(torch.uint8).argsort(dim=1, stable=True)[:, :count]
            return rows.gather(1, order)
        asked = min(2 * asked, len(allowed))


def kept(
    path: Path,
    about: Mapping[str, Any],
    make: Callable[[], Tensor],
    fits: Callable[[Tensor], bool],
) -> Tensor:
    """The table of a file; made, and written there, if the file is missing or of something else.

    Several processes may do so at once. Where nothing can be written, a warning says so.

    Args:
        path: the file.
        about: what the table depends on, as values of JSON.
        make: makes it, (Q, k) int64.
        fits: whether it can be a table that was kept.
    """
    found = _read(path, about, fits)
    if found is not None:
        return found
    table = make()
    try:
        write_table(path, {"rows": table.to(torch.int32)}, about)
    except OSError as error:
        _log.warning("the neighbours are not kept for the next time: %s", reason(error))
    return table


def _read(path: Path, about: Mapping[str, Any], fits: Callable[[Tensor], bool]) -> Tensor | None:
    try:
        tensors, found = read_table(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        why = reason(error.__cause__ or error)
        _log.warning("%s is damaged and is made anew (%s)", shown(path), why)
        return None
    table = tensors.get("rows", torch.empty(0, device="cpu")).long()
    return table if found == about and fits(table) else None


class WithNeighbours(Dataset[dict[str, Any]]):
    """A data set of image files with the k nearest neighbours of each, by CLIP embedding.

    Items are those of ``images`` with, besides,

    - ``neighbours``: float (count, D), embeddings of length 1, the nearest first (Blattmann et
      al., Retrieval-Augmented Diffusion Models, 2022)

    Embeddings are read from files that ``scripts/build_index.py`` writes. The neighbours are looked
    up once, when the set is built, and kept in a file beside the embeddings. They are the same in
    every epoch. An image that could not be embedded, or cannot be read any more, is replaced by the
    next one.

    Args:
        images: data set of files below a folder, such as ``ldm.data.ImageFolder``: it, or
            its ``source``, has ``root`` and ``files``.
        embeddings: file with those of all images of that folder.
        count: neighbours of an image.
        database: file with the embeddings of another folder, in which neighbours are looked for;
            None: the folder of ``images``.
        among: data set whose images, and no others, may be neighbours, so that held-out images
            find those of the training set; None: ``images`` itself. With a ``database`` it does
            not matter: all of its images may be.
        index: file of an index over the database, see ``ldm.data.retrieval.search``;
            None: a query is compared with all embeddings.
        exclude_self: an image is no neighbour of itself. (A copy of it under another name is.)
        keep: whether the neighbours are kept in a file.

    Raises:
        DataError: embeddings and images do not belong together, or there are too few neighbours.
    """

    def __init__(
        self,
        images: Dataset[dict[str, Any]],
        embeddings: str | Path,
        count: int,
        database: str | Path | None = None,
        among: Dataset[dict[str, Any]] | None = None,
        index: str | Path | None = None,
        exclude_self: bool = True,
        keep: bool = True,
    ) -> None:
        path = Path(embeddings).expanduser()
        queries = EmbeddingStore.load(path)
        self.images, self.store = images, queries
        self.skips = Skips([NO_EMBEDDING])
        self._files = _checked_files(images, queries, path)
        rows = _rows(self._files, queries)
        usable = rows >= 0
        if not bool(usable.any()):
            raise DataError(f"embeddings {shown(path)} hold none of the {len(rows)} images")
        if database is not None:
            self.store = _database(Path(database).expanduser(), queries, path)
            may_be = torch.arange(len(self.store.files), device="cpu")
        else:
            may_be = rows if among is None else _rows(_checked_files(among, queries, path), queries)
        allowed = torch.zeros(len(self.store.files), dtype=torch.bool, device="cpu")
        allowed[may_be[may_be >= 0]] = True
        own = (
            rows[usable] if database is None and exclude_self else torch.full_like(rows, -1)[usable]
        )
        lookup = _Lookup(queries, rows[usable], own, self.store, allowed, count)
        found = lookup.rows(index, path if keep else None)
        self._table = torch.full((len(rows), count), -1, device="cpu")
        self._table[usable] = found

    def __len__(self) -> int:
        return len(self._files)

    def set_epoch(self, epoch: int) -> None:
        """Give the images, if they draw, new crops; the neighbours stay."""
        if hasattr(self.images, "set_epoch"):
            self.images.set_epoch(epoch)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return next_usable(index, len(self), self._usable, self._complaint)[1]

    def _usable(self, index: int) -> dict[str, Any] | None:
        if self._table[index, 0] >= 0:
            entries = self.images[index]
            # A file that broke since then: the images gave that of another one.
            if self._files[index] not in getattr(self.images, "broken_files", ()):
                return {**entries, "neighbours": self.store.vectors[self._table[index]]}
        self.skips.add(
            NO_EMBEDDING, f"'{shown(self._files[index])}': the next image is used instead"
        )
        return None

    def _complaint(self) -> str:
        return f"{type(self.images).__name__}: not one of {len(self)} images is usable"

    def neighbour_files(self, neighbours: Tensor) -> list[Path]:
        """Files of the database with these embeddings (k, D), where they lay then."""
        found = ExactSearch(self.store.vectors)(neighbours, 1).indices[:, 0].tolist()
        return [Path(self.store.root) / self.store.files[row] for row in found]


@dataclass(frozen=True)
class _Lookup:
    """Which neighbours are looked for: ``count`` of rows of one store, in another.

    Attributes:
        queries: the store of the images.
        images: (Q,) their rows there.
        own: (Q,) their rows in the database, -1: none that must not be found.
        database: the other store.
        allowed: (N,) bool, its rows that may be neighbours.
        count: neighbours of an image.
    """

    queries: EmbeddingStore
    images: Tensor
    own: Tensor
    database: EmbeddingStore
    allowed: Tensor
    count: int

    def rows(self, index: str | Path | None, beside: Path | None) -> Tensor:
        """Rows of the database (Q, count); taken from a file beside the other if they are there."""
        search: ExactSearch | FaissSearch = ExactSearch(self.database.vectors)
        if index is not None:
            search = load_index(Path(index).expanduser(), self.database)

        def make() -> Tensor:
            images, others = len(self.images), int(self.allowed.sum())
            _log.info("looking up %d neighbours of %d images in %d", self.count, images, others)
            vectors = self.queries.vectors[self.images]
            return look_up(search, vectors, self.count, self.own, self.allowed)

        if beside is None:
            return make()
        about = {
            "queries": self.queries.fingerprint,
            "database": self.database.fingerprint,
            "rows": _digest(self.images, self.own, self.allowed),
            "search": search.description,
            "count": self.count,
        }

        def fits(table: Tensor) -> bool:
            shape = (len(self.images), self.count)
            inside = (table >= 0) & (table < len(self.database.files))
            return table.shape == shape and bool(inside.all())

        name = hashlib.sha256(repr(about).encode()).hexdigest()[:12]
        file = beside.with_name(f"{beside.stem}.{name}.neighbours.safetensors")
        return kept(file, about, make, fits)


def _database(path: Path, queries: EmbeddingStore, queries_path: Path) -> EmbeddingStore:
    store = EmbeddingStore.load(path)
    if store.encoder != queries.encoder:
        raise DataError(
            f"embeddings {shown(path)} were made by {store.encoder}, those of the images in "
            f"{shown(queries_path)} by {queries.encoder}: they cannot be compared"
        )
    return store


def _checked_files(images: Any, store: EmbeddingStore, path: Path) -> Sequence[str]:
    """The files of a data set, none of them new or changed since they were embedded."""
    source: Any = images if hasattr(images, "files") else getattr(images, "source", None)
    if not isinstance(images, Sized) or not hasattr(source, "files"):
        raise DataError(
            f"{type(images).__name__} is no data set of files below a folder: neighbours are "
            "known by the file of an image"
        )
    root, files = Path(source.root), list(source.files)
    for file in files:
        try:
            size = (root / file).stat().st_size
        except OSError:  # missing or unreadable: the data set passes over it
            continue
        if store.sizes.get(file) != size:
            what = "is new" if file not in store.sizes else "has changed"
            raise DataError(
                f"embeddings {shown(path)} are not those of {shown(root)} any more "
                f"({shown(file)} {what}): run scripts/build_index.py again, which embeds what is "
                "new"
            )
    return files


def _rows(files: Sequence[str], store: EmbeddingStore) -> Tensor:
    """Row of each file in the store, -1 for what could not be embedded."""
    places = {file: row for row, file in enumerate(store.files)}
    return torch.tensor([places.get(file, -1) for file in files], device="cpu")


def _digest(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
