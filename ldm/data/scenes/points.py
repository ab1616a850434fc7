"""Clouds of points in the plane, spread evenly over silhouettes: data that are no images.

Two silhouettes are drawn here; others come from image files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor
from torch.utils.data import Dataset

from ldm.data.image_io import read_image
from ldm.data.items import check_choice
from ldm.errors import DataError

Mask = NDArray[np.bool_]

SIDE = 200
"""Longer side, in pixels, to which pictures are reduced; the size of what is drawn here."""

_OVERSAMPLING = 4
_DARK = 128


class _Pen:
    """Draws with ink 1 or 0 in a square whose sides have length 100, y downwards."""

    def __init__(self, side: int) -> None:
        self._unit = side / 100
        self.picture = Image.new("L", (side, side), 0)
        self._draw = ImageDraw.Draw(self.picture)

    def polygon(self, *corners: tuple[float, float], ink: int = 1) -> None:
        self._draw.polygon([(x * self._unit, y * self._unit) for x, y in corners], fill=ink)

    def ellipse(self, x: float, y: float, rx: float, ry: float, ink: int = 1) -> None:
        box = [(x - rx) * self._unit, (y - ry) * self._unit]
        self._draw.ellipse([*box, (x + rx) * self._unit, (y + ry) * self._unit], fill=ink)

    def curve(self, start: float, end: float, box: tuple[float, ...], width: float) -> None:
        """An arc of the ellipse in ``box``, clockwise from start to end in degrees."""
        scaled = [value * self._unit for value in box]
        self._draw.arc(scaled, start, end, fill=1, width=round(width * self._unit))


def _cat(pen: _Pen) -> None:
    """A sitting cat."""
    pen.ellipse(46, 72, 24, 24)  # body
    pen.polygon((34, 40), (58, 40), (68, 66), (24, 66))  # neck and shoulders
    pen.ellipse(46, 32, 19, 16)  # head
    pen.polygon((28, 30), (27, 4), (44, 19))  # ears
    pen.polygon((64, 30), (65, 4), (48, 19))
    pen.ellipse(39, 31, 3.2, 4.2, ink=0)  # eyes
    pen.ellipse(53, 31, 3.2, 4.2, ink=0)
    pen.polygon((43.5, 38), (48.5, 38), (46, 41.5), ink=0)  # nose
    pen.polygon((24, 80), (68, 80), (68, 96), (24, 96))  # feet
    pen.curve(-80, 115, (52, 50, 92, 96), 7)  # tail
    pen.ellipse(76, 53, 3.5, 3.5)


def _rocket(pen: _Pen) -> None:
    """A rocket with a window, fins and a flame."""
    pen.ellipse(50, 42, 16, 39)  # hull
    pen.polygon((30, 60), (70, 60), (70, 82), (30, 82), ink=0)  # cut off below
    pen.polygon((34.5, 52), (65.5, 52), (61, 74), (39, 74))
    pen.polygon((35, 48), (39, 74), (20, 84), (20, 68))  # fins
    pen.polygon((65, 48), (61, 74), (80, 84), (80, 68))
    pen.ellipse(50, 34, 7, 7, ink=0)  # window
    pen.polygon((42, 78), (58, 78), (54, 88), (50, 98), (46, 88))  # flame


DRAWN: Mapping[str, Callable[[_Pen], None]] = {"cat": _cat, "rocket": _rocket}


def silhouette(source: str | Path) -> Mask:
    """The pixels of a shape, True inside, (H, W) with the longer side ``SIDE`` or less.

    Args:
        source: a name of ``DRAWN``, or an image file. In a file with transparency the opaque
            pixels are the shape, else those darker than mid-grey. It is reduced to ``SIDE``.

    Raises:
        DataError: the file cannot be read, or no pixel or every pixel is inside.
    """
    if source in DRAWN:
        return _drawn(DRAWN[str(source)])
    if not Path(source).is_file():
        raise DataError(f"{source}: no image file, and none of the shapes {', '.join(DRAWN)}")
    picture, _ = read_image(Path(source), mode="RGBA")
    picture.thumbnail((SIDE, SIDE))
    pixels: NDArray[Any] = np.asarray(picture)
    opaque = pixels[..., 3] >= _DARK
    dark = np.asarray(picture.convert("RGB").convert("L")) < _DARK
    mask = dark if opaque.all() else opaque
    if mask.all() or not mask.any():
        raise DataError(
            f"{source}: {'every' if mask.all() else 'no'} pixel is dark; a silhouette is a dark "
            "shape on a light ground, or an opaque one on a transparent ground"
        )
    return mask


def _drawn(draw: Callable[[_Pen], None]) -> Mask:
    pen = _Pen(SIDE * _OVERSAMPLING)
    draw(pen)
    fine = np.asarray(pen.picture).reshape(SIDE, _OVERSAMPLING, SIDE, _OVERSAMPLING)
    return np.asarray(fine.mean((1, 3)) >= 0.5)


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
        check_choice("points", "split", split, _SPLITS)
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
