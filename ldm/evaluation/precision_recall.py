"""Improved precision and recall of generative models (Kynkäänniemi et al. 2019)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ldm.evaluation.neighbourhoods import (
    TILE,
    centre_of,
    check_features,
    distance_tiles,
    squared_radii,
)


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
