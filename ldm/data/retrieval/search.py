"""The nearest vectors of a database, by cosine: exactly, or by faiss.

Every search has the signature of ``Search``. ``ExactSearch`` needs no other library; faiss compares
many queries at once faster, or only with the vectors in the nearest cells of an inverted file
(IVF).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.containers.tensors import read_table, write_table
from ldm.data.retrieval.embeddings import EmbeddingStore
from ldm.errors import DataError
from ldm.files import reason, shown


class Neighbours(NamedTuple):
    """What a search finds, the nearest first.

    Attributes:
        indices: rows of the database (Q, k), int64.
        similarities: cosines (Q, k).
    """

    indices: Tensor
    similarities: Tensor


Search: TypeAlias = Callable[[Tensor, int], Neighbours]
"""``search(queries (Q, D), k) -> Neighbours``; an approximate index has the same signature."""


@dataclass(frozen=True)
class ExactSearch:
    """Cosine similarity with every row; the lower row is first where two are equal.

    Attributes:
        vectors: the database (N, D), of length 1.
        chunk: rows that are compared at once.
    """

    vectors: Tensor
    chunk: int = 16384

    @property
    def description(self) -> str:
        """What it finds depends on this and the vectors only."""
        return "exact"

    def __call__(self, queries: Tensor, k: int) -> Neighbours:
        """The k nearest rows of queries (Q, D) of any length.

        Raises:
            DataError: there are not so many rows, or queries have another width.
        """
        count, width = self.vectors.shape
        check_search(queries, k, count, width)
        queries = F.normalize(queries.float(), dim=1)
        similarities = queries.new_empty(len(queries), 0)
        indices = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
        for start in range(0, count, self.chunk):
            rows = self.vectors[start : start + self.chunk].to(queries)
            numbers = torch.arange(start, start + len(rows), device=queries.device)
            similarities = torch.cat([similarities, queries @ rows.T], dim=1)
            indices = torch.cat([indices, numbers.expand(len(queries), -1)], dim=1)
            order = _largest(similarities, k)
            similarities, indices = similarities.gather(1, order), indices.gather(1, order)
        return Neighbours(indices, similarities)


def check_search(queries: Tensor, k: int, count: int, width: int) -> None:
    """Refuse to look for k neighbours of queries (Q, D) among ``count`` vectors of this width.

    Raises:
        DataError: there are not so many, or queries have another width.
    """
    if not 1 <= k <= count:
        raise DataError(f"cannot find {k} neighbours among {count} images: ask for 1 to {count}")
    if queries.ndim != 2 or queries.shape[1] != width:
        raise DataError(f"queries must be (Q, {width}), got {tuple(queries.shape)}")


def _largest(values: Tensor, k: int) -> Tensor:
    """Columns of the k largest values of each row (Q, N), in a stable order; all if N < k."""
    if k < values.shape[1]:
        best, columns = values.topk(k, dim=1)
        if bool(((values >= best[:, -1:]).sum(dim=1) == k).all()):  # no tie at the end: much faster
            columns = columns.sort(dim=1).values
            order = values.gather(1, columns).argsort(dim=1, descending=True, stable=True)
            return columns.gather(1, order)
    return values.argsort(dim=1, descending=True, stable=True)[:, :k]


KINDS = ("exact", "ivf")

_POINTS_PER_CELL = 39
"""Fewer make faiss warn that its k-means has too little to learn from."""


@dataclass(frozen=True)
class FaissSearch:
    """Cosine similarity with the vectors of an index of faiss.

    Rows whose similarities are equal come in no particular order.

    Attributes:
        index: the index, of inner products, holding vectors of length 1.
        kind: one of ``KINDS``.
        cells: into which an IVF divides the vectors; 1: exact.
        probes: how many of them, the nearest ones, a query is compared with.
    """

    index: Any
    kind: str
    cells: int = 1
    probes: int = 1

    @property
    def description(self) -> str:
        """What it finds depends on this and the vectors only."""
        return "exact" if self.kind == "exact" else f"ivf of {self.cells}, {self.probes} probes"

    def __call__(self, queries: Tensor, k: int) -> Neighbours:
        """The k nearest rows of queries (Q, D) of any length.

        Where the probed cells of an IVF hold fewer than k, more are probed, so there are always k.

        Raises:
            DataError: there are not so many rows, or queries have another width.
        """
        check_search(queries, k, self.index.ntotal, self.index.d)
        wanted = np.ascontiguousarray(F.normalize(queries.float(), dim=1).cpu().numpy())
        similarities, indices = self._search(wanted, k, self.probes)
        probes = self.probes
        while (short := (indices < 0).any(axis=1)).any():
            probes = min(2 * probes, self.cells)
            similarities[short], indices[short] = self._search(wanted[short], k, probes)
        found = torch.from_numpy(indices), torch.from_numpy(similarities)
        return Neighbours(*(values.to(queries.device) for values in found))

    def _search(self, queries: Any, k: int, probes: int) -> tuple[Any, Any]:
        if self.kind == "exact":
            similarities, indices = self.index.search(queries, k)
        else:
            options = _faiss().SearchParametersIVF(nprobe=probes)
            similarities, indices = self.index.search(queries, k, params=options)
        return similarities, indices.astype(np.int64)


def exact_index(vectors: Tensor) -> FaissSearch:
    """Compares a query with all vectors (N, D) of length 1.

    Raises:
        DataError: faiss is not installed.
    """
    index = _faiss().IndexFlatIP(vectors.shape[1])
    index.add(_rows(vectors))
    return FaissSearch(index, "exact")


def ivf_index(
    vectors: Tensor, cells: int | None = None, probes: int | None = None, seed: int = 0
) -> FaissSearch:
    """Divides vectors (N, D) of length 1 into cells by k-means.

    Args:
        vectors: the database.
        cells: how many; None: 4 sqrt(N), but at least 39 vectors for each.
        probes: how many a query is compared with; None: an eighth, at least 8 and at most 64.
        seed: of k-means.

    Raises:
        DataError: faiss is not installed, or there are fewer vectors than cells.
    """
    faiss = _faiss()
    count, width = vectors.shape
    if cells is None:
        cells = max(1, min(round(4 * count**0.5), count // _POINTS_PER_CELL))
    if not 1 <= cells <= count:
        raise DataError(f"an index of {count} images must have 1 to {count} cells, got {cells}")
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, cells, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed, index.cp.min_points_per_centroid = seed, 1
    rows = _rows(vectors)
    index.train(rows)
    index.add(rows)
    return with_probes(FaissSearch(index, "ivf", cells, 1), probes)


def with_probes(search: FaissSearch, probes: int | None) -> FaissSearch:
    """The same index with another number of probes; None: see ``ivf_index``.

    Raises:
        DataError: there are not so many cells.
    """
    if probes is None:
        probes = min(max(8, min(search.cells // 8, 64)), search.cells)
    if not 1 <= probes <= search.cells:
        raise DataError(
            f"an index of {search.cells} cells can probe 1 to {search.cells} of them, got {probes}"
        )
    return FaissSearch(search.index, search.kind, search.cells, probes)


def recall(search: Search, vectors: Tensor, k: int, queries: int = 500) -> float:
    """Share of the k nearest other vectors that a search finds, at most 1; exact search has 1.

    Args:
        search: over ``vectors``.
        vectors: the database (N, D), of length 1.
        k: neighbours, below N.
        queries: so many of the vectors, evenly spaced, are looked for.
    """
    own = torch.arange(0, len(vectors), max(1, len(vectors) // queries))
    found = search(vectors[own], k + 1).indices
    nearest = ExactSearch(vectors)(vectors[own], k + 1).indices
    hits = (found[:, :, None] == nearest[:, None, :]).any(dim=1)
    others = nearest != own[:, None]
    return float(hits[others].float().mean())


def save_index(search: FaissSearch, store: EmbeddingStore, path: Path) -> None:
    """Write a file, complete or not at all; an exact index needs the embeddings only."""
    about = {"kind": search.kind, "cells": search.cells, "probes": search.probes}
    about["embeddings"] = store.fingerprint
    data = np.zeros(0, np.uint8)
    if search.kind != "exact":
        data = _faiss().serialize_index(search.index)
    write_table(path, {"index": torch.from_numpy(data)}, about)


def load_index(path: Path, store: EmbeddingStore) -> FaissSearch:
    """Read what ``save_index`` wrote.

    Args:
        path: the file.
        store: the embeddings that the index was made of.

    Raises:
        DataError: the file is missing, damaged, or of other embeddings; faiss is not installed.
    """
    faiss = _faiss()
    try:
        tensors, about = read_table(path)
        kind, cells, probes = about["kind"], int(about["cells"]), int(about["probes"])
        made_of, data = about["embeddings"], tensors["index"].numpy()
    except FileNotFoundError:
        raise DataError(
            f"index {shown(path)}: no such file; scripts/build_index.py writes it"
        ) from None
    except (OSError, ValueError, LookupError, TypeError) as error:
        why = reason(error.__cause__ or error)
        raise DataError(
            f"index {shown(path)}: not a file of build_index.py ({why}): "
            "scripts/build_index.py makes it anew"
        ) from None
    if data.dtype != np.uint8 or data.ndim != 1:
        raise DataError(f"index {shown(path)}: not a file of build_index.py ({data.dtype})")
    if made_of != store.fingerprint:
        raise DataError(
            f"index {shown(path)} is of other embeddings than these of {shown(store.root)}: build "
            "it anew with scripts/build_index.py"
        )
    if kind == "exact":
        return exact_index(store.vectors)
    try:
        index = faiss.deserialize_index(data)
    except (RuntimeError, ValueError, MemoryError) as error:
        raise DataError(f"index {shown(path)}: faiss cannot read it ({reason(error)})") from None
    if (kind, index.ntotal, index.d) != ("ivf", *store.vectors.shape):
        raise DataError(
            f"index {shown(path)} does not hold the {len(store.files)} embeddings it names"
        )
    return with_probes(FaissSearch(index, kind, cells, 1), probes)


def _rows(vectors: Tensor) -> Any:
    return np.ascontiguousarray(vectors.float().cpu().numpy())


def _faiss() -> Any:
    try:
        import faiss
    except ModuleNotFoundError:
        raise DataError(
            "an index needs faiss: pip install faiss-cpu, or search exactly without an index"
        ) from None
    return faiss
