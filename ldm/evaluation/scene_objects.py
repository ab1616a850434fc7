"""The eyes of the judge: which coloured shapes does an image of a synthetic scene show?

The colours are found by hue: on the plane of opponent colours, mixing a saturated colour with a
grey background moves a pixel along a straight line from the origin, so the position along the
palette's direction is the fraction of the pixel that the object covers, blurred or anti-aliased.
A connected region is named after the shape that overlaps it best when drawn with the same area
and centre of mass, both of which a blur leaves unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from ldm.data.scene_captions import COLOURS, SHAPES
from ldm.data.scene_drawing import CROSS_ARM, PALETTE, shape_coverage

UNKNOWN = "unknown"
"""Shape or colour of a region that resembles none of the known ones."""

MIN_AREA = 0.015
"""Smaller regions are specks: area over the square of the shorter image side."""

MAX_AREA = 0.5
"""Larger regions have no known shape: an image all of one colour is not a square."""

MIN_OVERLAP = 0.76
"""Intersection over union below which a region has no known shape."""

BLUR = 0.16
"""Blur of the second drawing that a region is compared with, as a fraction of its radius."""

MAX_HUE_ERROR = 16.0
"""Degrees of hue between a region and its palette colour beyond which the colour is unknown."""

MAX_COLOUR_ERROR = 0.25
"""The same for the distance in RGB, of channels in [0, 1], from the middle of the region."""

# Area of a shape of radius 1, and how far its centre of mass lies below the centre of its box.
_AREAS = {
    "circle": np.pi,
    "square": 4.0,
    "triangle": 2.0,
    "cross": 4.0 * CROSS_ARM * (2.0 - CROSS_ARM),
}
_SINK = {"circle": 0.0, "square": 0.0, "triangle": 1.0 / 3.0, "cross": 0.0}

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class FoundObject:
    """A region of an image; ``box`` is (x0, y0, x1, y1) and ``area`` a share, both in [0, 1]."""

    shape: str
    colour: str
    box: tuple[float, float, float, float]
    area: float


class Region(NamedTuple):
    """An object and its pixels, bool (H, W): those that it covers by more than half."""

    item: FoundObject
    pixels: NDArray[np.bool_]


def judge(image: Tensor) -> list[FoundObject]:
    """Find the objects of a synthetic scene, largest first.

    Args:
        image: (3, H, W) in [-1, 1]; values outside are clamped.
    """
    return [region.item for region in find_regions(image)]


def find_regions(image: Tensor) -> list[Region]:
    """The objects that ``judge`` finds, in the same order, with the pixels of each."""
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"judge takes one image (3, H, W), not {tuple(image.shape)}")
    rgb = (image.detach().float().cpu().clamp(-1, 1).numpy() + 1) / 2
    nearest, coverage = _classify(_opponent(rgb))
    found = []
    for index in range(len(COLOURS)):
        regions, count = ndimage.label((nearest == index) & (coverage > 0.5))
        for k, window in enumerate(ndimage.find_objects(regions, count), start=1):
            inside = regions[window] == k
            if inside.sum() >= MIN_AREA * min(image.shape[1:]) ** 2:
                pixels = regions == k
                item = _describe(index, window, pixels, rgb, coverage)
                found.append(Region(item, pixels))
    return sorted(found, key=lambda region: -region.item.area)


def _describe(
    index: int,
    window: tuple[slice, slice],
    pixels: NDArray[np.bool_],
    rgb: Array,
    coverage: Array,
) -> FoundObject:
    """Name the region ``pixels`` (H, W), nearest in hue to the palette colour ``index``."""
    soft = _soft_mask(window, pixels, coverage)
    too_large = soft.sum() > MAX_AREA * min(coverage.shape) ** 2
    return FoundObject(
        UNKNOWN if too_large else _name_shape(soft),
        _name_colour(index, rgb[:, pixels], coverage[pixels]),
        _box(window, coverage.shape),
        float(soft.sum()) / coverage.size,
    )


def _opponent(rgb: Array) -> Array:
    """Opponent colours (2, ...) of (3, ...): distance from the origin is chroma, angle is hue."""
    red, green, blue = rgb
    return np.stack([red - (green + blue) / 2, (green - blue) * (3**0.5 / 2)])


_DIRECTIONS = np.array([_opponent(np.array(PALETTE[c])) for c in COLOURS])
_CHROMA = np.linalg.norm(_DIRECTIONS, axis=1)
_DIRECTIONS = _DIRECTIONS / _CHROMA[:, None]


def _classify(plane: Array) -> tuple[NDArray[np.intp], Array]:
    """Nearest palette hue of each pixel and the fraction of the pixel that it covers."""
    along = np.tensordot(_DIRECTIONS, plane, 1)
    nearest = along.argmax(0)
    coverage = np.take_along_axis(along, nearest[None], 0)[0] / _CHROMA[nearest]
    return nearest, coverage


def _box(window: tuple[slice, slice], size: tuple[int, ...]) -> tuple[float, float, float, float]:
    (rows, columns), (height, width) = window, size
    return columns.start / width, rows.start / height, columns.stop / width, rows.stop / height


def _name_colour(index: int, rgb: Array, coverage: Array) -> str:
    """The palette colour ``index`` if the pixels (3, N) of a region resemble it."""
    chroma = _opponent(rgb.mean(1))
    cosine = float(_DIRECTIONS[index] @ chroma / np.linalg.norm(chroma))
    middle = rgb[:, coverage >= np.median(coverage)].mean(1)
    distance = np.linalg.norm(middle - np.array(PALETTE[COLOURS[index]]))
    alike = np.degrees(np.arccos(min(cosine, 1.0))) < MAX_HUE_ERROR
    return COLOURS[index] if alike and distance < MAX_COLOUR_ERROR else UNKNOWN


def _soft_mask(window: tuple[slice, slice], inside: NDArray[np.bool_], coverage: Array) -> Array:
    """Coverage of one region in its window, one pixel of fading edge included."""
    around = tuple(slice(max(s.start - 2, 0), s.stop + 2) for s in window)
    inside = inside[around]
    edge = ndimage.binary_dilation(inside, np.ones((3, 3), bool))
    level = np.percentile(coverage[around][inside], 75)
    return np.pad(np.clip(coverage[around] / level, 0, 1) * edge, 2)


def _name_shape(soft: Array) -> str:
    """The shape whose drawing of equal area and centre overlaps most, or ``UNKNOWN``."""
    area = float(soft.sum())
    row, column = ndimage.center_of_mass(soft)
    dx = np.arange(soft.shape[1])[None] - column
    dy = np.arange(soft.shape[0])[:, None] - row
    overlaps = {}
    for shape in SHAPES:
        radius = (area / _AREAS[shape]) ** 0.5
        drawn = shape_coverage(shape, dx, dy + _SINK[shape] * radius, radius)
        blurred = ndimage.gaussian_filter(drawn, BLUR * radius)
        overlaps[shape] = max(_overlap(soft, drawn), _overlap(soft, blurred))
    best = max(SHAPES, key=overlaps.__getitem__)
    return best if overlaps[best] >= MIN_OVERLAP else UNKNOWN


def _overlap(a: Array, b: Array) -> float:
    return float(np.minimum(a, b).sum() / np.maximum(a, b).sum())
