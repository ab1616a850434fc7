"""Density and coverage of generative models (Naeem et al. 2020)."""

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
