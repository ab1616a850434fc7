"""The nearest vectors of a database, by cosine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.errors import DataError


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
