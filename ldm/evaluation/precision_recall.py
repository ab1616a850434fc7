"""Improved precision and recall of generative models (Kynkäänniemi et al. 2019)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class PrecisionRecall(NamedTuple):
    """Precision (are the fakes like real ones) and recall (are all real ones covered)."""

    precision: float
    recall: float


def precision_recall(real: Tensor, fake: Tensor, k: int = 3, tile: int = 2048) -> PrecisionRecall:
    """Share of each set that lies within the estimated manifold of the other.

    The manifold of a set is the union of the balls around its points that reach to their k-th
    nearest neighbour in the set. Distances are computed in tiles of ``tile`` x ``tile``, so the
    memory does not grow with the product of the set sizes.

    Args:
        real: features (N, D).
        fake: features (M, D).
        k: which neighbour gives the radius; 3 in the paper.
        tile: rows and columns of a block of distances.

    Raises:
        ValueError: shapes do not fit, or a set has no more than ``k`` points.
    """
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1]:
        raise ValueError(f"real {tuple(real.shape)} and fake {tuple(fake.shape)} do not fit")
    if min(len(real), len(fake)) <= k:
        raise ValueError(f"{len(real)} real and {len(fake)} fake features: k={k} needs more")
    # Centred, so that differences survive the expansion of the square in _tiles.
    centre = real.double().mean(0)
    real, fake = real.double() - centre, fake.double() - centre
    return PrecisionRecall(
        precision=_share_inside(fake, real, _radii(real, k, tile), tile),
        recall=_share_inside(real, fake, _radii(fake, k, tile), tile),
    )


def _radii(points: Tensor, k: int, tile: int) -> Tensor:
    """Squared distance of each point (N, D) to its k-th nearest other point, (N,)."""
    nearest = points.new_full((len(points), k), torch.inf)
    for rows, columns, squares in _tiles(points, points, tile):
        if rows == columns:
            squares.fill_diagonal_(torch.inf)
        candidates = torch.cat([nearest[rows], squares], dim=1)
        nearest[rows] = candidates.topk(k, dim=1, largest=False).values
    return nearest.amax(1)


def _share_inside(queries: Tensor, points: Tensor, radii: Tensor, tile: int) -> float:
    """Share of the queries that lie in the ball of one point or more."""
    inside = torch.zeros(len(queries), dtype=torch.bool, device=queries.device)
    for rows, columns, squares in _tiles(queries, points, tile):
        inside[rows] |= (squares <= radii[columns]).any(1)
    return float(inside.double().mean())


def _tiles(a: Tensor, b: Tensor, tile: int) -> Iterator[tuple[slice, slice, Tensor]]:
    """Squared distances of all rows of ``a`` and ``b``, block by block."""
    for i in range(0, len(a), tile):
        for j in range(0, len(b), tile):
            rows, columns = slice(i, i + tile), slice(j, j + tile)
            norms = a[rows].square().sum(1)[:, None] + b[columns].square().sum(1)[None]
            squares = norms - 2 * a[rows] @ b[columns].T
            # Rounding leaves equal points a little apart; they must count as equal.
            squares.masked_fill_(squares < 1e-12 * norms, 0.0)
            yield rows, columns, squares
