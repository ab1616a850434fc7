"""Quality and variety apart, by the neighbourhoods of features.

Improved precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020).
Distances are computed in tiles, so that memory does not grow with the product of the sets.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

TILE = 2048
"""Rows and columns of a block of distances."""


class Tile(NamedTuple):
    """Squared distances (R, C), float64, between ``a[rows]`` and ``b[columns]``."""

    rows: slice
    columns: slice
    squares: Tensor


def check_features(real: Tensor, fake: Tensor) -> None:
    """Refuse features between which there are no distances.

    Raises:
        ValueError: shapes do not fit, a set is empty, or a value is not finite.
    """
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1]:
        raise ValueError(f"real {tuple(real.shape)} and fake {tuple(fake.shape)} do not fit")
    if not len(real) or not len(fake):
        raise ValueError(f"{len(real)} real and {len(fake)} fake features: none is near")
    if not (all_finite(real) and all_finite(fake)):
        raise ValueError("features hold NaN or infinite values")


def all_finite(points: Tensor) -> bool:
    """Whether no value of points (N, D) is NaN or infinite; makes nothing of their size."""
    return all(bool(part.isfinite().all()) for part in points.split(TILE))


def centre_of(points: Tensor) -> Tensor:
    """Mean (D,) of points (N, D), float64; from it differences are not small beside the points."""
    sums = [part.double().sum(0) for part in points.split(TILE)]
    return torch.stack(sums).sum(0) / len(points)


def distance_tiles(a: Tensor, b: Tensor, centre: Tensor, tile: int = TILE) -> Iterator[Tile]:
    """Squared distances of all points of ``a`` (N, D) and ``b`` (M, D), block by block.

    Each block is computed in float64 from the points of its own rows and columns, whatever their
    type. Points that are equal up to rounding are at 0.

    Args:
        a: (N, D).
        b: (M, D).
        centre: (D,), a place in their midst.
        tile: rows and columns of a block.
    """
    for i in range(0, len(a), tile):
        rows = slice(i, min(i + tile, len(a)))
        x = a[rows].double() - centre
        for j in range(0, len(b), tile):
            columns = slice(j, min(j + tile, len(b)))
            yield Tile(rows, columns, _squares(x, b[columns].double() - centre))


def squared_radii(points: Tensor, k: int, centre: Tensor, tile: int = TILE) -> Tensor:
    """Squared distance of each point (N, D) to its k-th nearest other point, (N,), float64.

    Args:
        points: (N, D) of any type.
        k: which neighbour.
        centre: (D,), a place in their midst.
        tile: rows and columns of a block.

    Raises:
        ValueError: there are no more than ``k`` points.
    """
    if not 1 <= k < len(points):
        raise ValueError(f"{len(points)} features: the neighbour k={k} needs more")
    nearest = points.new_full((len(points), k), torch.inf, dtype=torch.float64)
    for i in range(0, len(points), tile):
        rows = slice(i, min(i + tile, len(points)))
        x = points[rows].double() - centre
        for j in range(i, len(points), tile):  # the blocks below the diagonal are the same
            columns = slice(j, min(j + tile, len(points)))
            squares = _squares(x, points[columns].double() - centre)
            if i == j:
                squares.fill_diagonal_(torch.inf)
            else:
                _keep_nearest(nearest[columns], squares.T)
            _keep_nearest(nearest[rows], squares)
    return nearest.amax(1)


def _keep_nearest(nearest: Tensor, squares: Tensor) -> None:
    """Let candidates (R, C) take the place of larger entries of ``nearest`` (R, k)."""
    k = nearest.shape[1]
    few = squares.topk(min(k, squares.shape[1]), dim=1, largest=False).values
    nearest.copy_(torch.cat([nearest, few], dim=1).topk(k, dim=1, largest=False).values)


def _squares(x: Tensor, y: Tensor) -> Tensor:
    norms = x.square().sum(1)[:, None] + y.square().sum(1)[None]
    squares = torch.addmm(norms, x, y.T, alpha=-2)
    # Rounding leaves equal points a little apart; they must count as equal.
    return squares.masked_fill_(squares < 1e-12 * norms, 0.0)


class DensityCoverage(NamedTuple):
    """Density (how deep in the real ones the fakes lie) and coverage (of the real ones, by fakes).

    Of fakes from the real distribution the density is about 1, and may be above; the coverage about
    1 - 2^-k, if there are as many of them.
    """

    density: float
    coverage: float


def density_coverage(real: Tensor, fake: Tensor, k: int = 5, tile: int = TILE) -> DensityCoverage:
    """Count how many balls around real points hold a fake, and how many hold any.

    A ball reaches to the k-th nearest real neighbour, which itself is not inside. Only real points
    have balls, so that fakes far off the data cannot blow them up, as they do in recall.

    - density: mean over fakes of the number of balls that hold it, divided by k.
    - coverage: share of the balls that hold a fake.

    Args:
        real: features (N, D).
        fake: features (M, D), on the same device.
        k: which neighbour gives the radius; 5 in the paper.
        tile: rows and columns of a block of distances, which are computed in float64.

    Raises:
        ValueError: shapes do not fit, there are no more than ``k`` real points, no fake ones, or
            values that are not finite.
    """
    check_features(real, fake)
    centre = centre_of(real)
    radii = squared_radii(real, k, centre, tile)
    held = 0
    covered = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for rows, _, squares in distance_tiles(real, fake, centre, tile):
        inside = squares < radii[rows, None]
        held += int(inside.sum())
        covered[rows] |= inside.any(1)
    return DensityCoverage(held / (k * len(fake)), float(covered.double().mean()))


class PrecisionRecall(NamedTuple):
    """Precision (are the fakes like real ones) and recall (are all real ones covered)."""

    precision: float
    recall: float


def precision_recall(real: Tensor, fake: Tensor, k: int = 3, tile: int = TILE) -> PrecisionRecall:
    """Share of each set that lies within the estimated manifold of the other.

    The manifold of a set is the union of the balls around its points that reach to their k-th
    nearest neighbour in the set. Distances are computed in float64, in tiles of ``tile`` x
    ``tile``, so the memory does not grow with the product of the set sizes.

    Args:
        real: features (N, D).
        fake: features (M, D), on the same device.
        k: which neighbour gives the radius; 3 in the paper.
        tile: rows and columns of a block of distances.

    Raises:
        ValueError: shapes do not fit, a set has no more than ``k`` points, or a value is not
            finite.
    """
    check_features(real, fake)
    centre = centre_of(real)
    real_radii = squared_radii(real, k, centre, tile)
    fake_radii = squared_radii(fake, k, centre, tile)
    precise = torch.zeros(len(fake), dtype=torch.bool, device=fake.device)
    recalled = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for rows, columns, squares in distance_tiles(real, fake, centre, tile):
        precise[columns] |= (squares <= real_radii[rows, None]).any(0)
        recalled[rows] |= (squares <= fake_radii[columns]).any(1)
    return PrecisionRecall(float(precise.double().mean()), float(recalled.double().mean()))
