"""Clouds of points in the plane, spread evenly over silhouettes: data that are no images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ldm.data.silhouettes import Mask, silhouette
from ldm.errors import DataError

_SPLITS = ("train", "validation", "test")


class PointCloud(Dataset[dict[str, Any]]):
    """Points drawn uniformly inside silhouettes; every item is one point, a sample of its own.

    The longer side of a picture spans [-1, 1], x to the right and y upwards. Each item is a dict of

    - ``image``: float (2,), the point. (The entry that models learn has this name.)
    - ``class_label``: int, which of the shapes it belongs to

    Item ``i`` belongs to shape ``i`` modulo their number; it depends on ``(seed, split, i)``, the
    shapes and the length.

    Args:
        shapes: names of drawn shapes (cat, rocket) or image files, see ``silhouette``.
        length: number of points.
        seed: seed of the whole set.
        split: train, validation or test: three sets without common draws.

    Raises:
        DataError: an option is out of its range, or a shape cannot be read.
    """

    def __init__(
        self, shapes: Sequence[str | Path], length: int, seed: int = 0, split: str = "train"
    ) -> None:
        if split not in _SPLITS:
            raise DataError(f"points: split '{split}' is not one of {', '.join(_SPLITS)}")
        if length < 1 or seed < 0 or not shapes:
            raise DataError(
                f"points: length {length} must be positive, seed {seed} not negative, and there "
                f"must be shapes (got {len(shapes)})"
            )
        rng = np.random.default_rng((seed, _SPLITS.index(split)))
        count = -(-length // len(shapes))
        clouds = [points_inside(silhouette(shape), count, rng) for shape in shapes]
        # numpy, not torch: a default device such as "meta" must not catch the points
        points = np.stack(clouds, axis=1).reshape(-1, 2)[:length]
        self.points = torch.from_numpy(points)
        self.num_shapes = len(shapes)

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"point {index} of a cloud of {len(self)}")
        return {"image": self.points[index], "class_label": index % self.num_shapes}

    def of_shape(self, label: int) -> Tensor:
        """All points of one shape, (N, 2)."""
        return self.points[label :: self.num_shapes]


def points_inside(mask: Mask, count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Points (count, 2) distributed uniformly over the true pixels of a mask (H, W)."""
    rows, columns = np.nonzero(mask)
    chosen = rng.integers(0, len(rows), count)
    pixels = np.stack([columns[chosen], rows[chosen]], axis=1) + rng.random((count, 2))
    return to_plane(pixels, mask)


def pixel_centres(mask: Mask) -> NDArray[np.float32]:
    """The centres (N, 2) of all true pixels of a mask (H, W), as points of the plane."""
    rows, columns = np.nonzero(mask)
    return to_plane(np.stack([columns, rows], axis=1) + 0.5, mask)


def to_plane(pixels: NDArray[Any], mask: Mask) -> NDArray[np.float32]:
    """Positions (N, 2) in pixels, (column, row), in coordinates where the longer side is 2."""
    height, width = mask.shape
    centred = (pixels - np.array([width, height]) / 2) * 2 / max(height, width)
    return (centred * [1, -1]).astype(np.float32)
