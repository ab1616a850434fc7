"""How well generated points fill a shape, and only that."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree


class Fit(NamedTuple):
    """Agreement of generated points with a shape.

    Attributes:
        inside: share of the points that lie in the shape or within the tolerance of it.
        covered: share of the shape that has a point nearby; what as many true points reach is at
            most a little more.
        chamfer: mean distance from points to the shape plus mean distance back.
    """

    inside: float
    covered: float
    chamfer: float


def fit(
    shape: NDArray[np.float32], points: NDArray[np.float32], tolerance: float, nearby: float
) -> Fit:
    """Compare points (N, 2) with a shape given by the centres (M, 2) of its pixels.

    Args:
        shape: the real thing.
        points: generated.
        tolerance: how far from a centre is still inside.
        nearby: how near a point must be to cover a place.
    """
    to_shape, _ = cKDTree(shape).query(points)
    to_points, _ = cKDTree(points).query(shape)
    return Fit(
        inside=float((to_shape <= tolerance).mean()),
        covered=float((to_points <= nearby).mean()),
        chamfer=float(to_shape.mean() + to_points.mean()),
    )
