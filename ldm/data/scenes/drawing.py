"""Drawing of synthetic scenes with numpy: anti-aliased shapes on muted backgrounds.

A scene is described without pixels, in units of the image's shorter side, so that one scene can
be drawn at any resolution. Pixel (row, column) has its centre at (column + 0.5, row + 0.5).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]

PALETTE: dict[str, tuple[float, float, float]] = {
    "red": (0.90, 0.13, 0.15),
    "green": (0.12, 0.68, 0.22),
    "blue": (0.16, 0.27, 0.92),
    "yellow": (0.98, 0.83, 0.10),
    "purple": (0.62, 0.16, 0.82),
    "cyan": (0.08, 0.78, 0.80),
}
"""RGB in [0, 1] of each colour: saturated, at least 45 degrees of hue apart."""

CROSS_ARM = 0.36
"""Half the width of a cross's arm, as a fraction of its radius."""

_PATTERN_CELLS = 6


@dataclass(frozen=True)
class SceneObject:
    """A shape that fills the box ``(x, y) +- radius``, in units of the shorter image side."""

    shape: str
    colour: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Background:
    """Two muted RGB colours in [0, 1] and the pattern that mixes them.

    Attributes:
        kind: plain, gradient, stripes, checker or clouds.
        dark: colour where the pattern is 0.
        light: colour where the pattern is 1.
        angle: direction of gradient and stripes, in radians.
        frequency: stripes or checker fields per shorter image side.
        phase: shift of the stripes or of the checker, in radians.
        cells: values of the clouds on a coarse grid (6, 6), in [0, 1].
    """

    kind: str
    dark: tuple[float, float, float]
    light: tuple[float, float, float]
    angle: float
    frequency: float
    phase: float
    cells: Sequence[float]


BACKGROUNDS = ("plain", "gradient", "stripes", "checker", "clouds")


def shape_coverage(shape: str, dx: Array, dy: Array, radius: float) -> Array:
    """Fraction of each pixel that a shape covers, from its signed distance in pixels.

    Args:
        shape: circle, square, triangle (point up) or cross.
        dx: pixel centres relative to the shape's centre, (1, w), in pixels.
        dy: the same for rows, (h, 1).
        radius: half of the side of the shape's box, in pixels.

    Returns:
        (h, w) in [0, 1].
    """
    ax, ay = np.abs(dx), np.abs(dy)
    if shape == "circle":
        distance = np.sqrt(dx * dx + dy * dy) - radius
    elif shape == "square":
        distance = np.maximum(ax, ay) - radius
    elif shape == "triangle":
        distance = np.maximum((2.0 * ax - dy - radius) * 0.4472136, dy - radius)
    elif shape == "cross":
        arm = CROSS_ARM * radius
        upright = np.maximum(ax - arm, ay - radius)
        distance = np.minimum(upright, np.maximum(ax - radius, ay - arm))
    else:
        raise ValueError(f"unknown shape '{shape}'")
    return np.minimum(np.maximum(0.5 - distance, 0.0), 1.0)


def draw_background(background: Background, height: int, width: int) -> Array:
    """Draw a background, (3, height, width) in [-1, 1]."""
    dark = _signed(background.dark)
    if background.kind == "plain":
        return np.tile(dark, (1, height, width))
    mix = _pattern(background, height, width)
    return dark + (_signed(background.light) - dark) * mix


def draw_object(image: Array, segmentation: NDArray[np.int64], item: SceneObject, k: int) -> None:
    """Paint an object into ``image`` (3, H, W) and its id ``k`` into ``segmentation`` (H, W)."""
    height, width = segmentation.shape
    unit = min(height, width)
    x, y, radius = item.x * unit, item.y * unit, item.radius * unit
    x0, x1 = max(int(x - radius - 1), 0), min(int(x + radius + 2), width)
    y0, y1 = max(int(y - radius - 1), 0), min(int(y + radius + 2), height)
    dx, dy = _centres(width)[None, x0:x1] - x, _centres(height)[y0:y1, None] - y
    coverage = shape_coverage(item.shape, dx, dy, radius)
    window = image[:, y0:y1, x0:x1]
    window += coverage * (_palette(item.colour) - window)
    np.copyto(segmentation[y0:y1, x0:x1], k, where=coverage >= 0.5)


def _pattern(background: Background, height: int, width: int) -> Array:
    if background.kind == "clouds":
        cells = np.asarray(background.cells, np.float32).reshape(_PATTERN_CELLS, _PATTERN_CELLS)
        return _interpolation(height) @ cells @ _interpolation(width).T
    unit = min(height, width)
    x, y = _centres(width)[None] / unit, _centres(height)[:, None] / unit
    cos, sin = math.cos(background.angle), math.sin(background.angle)
    if background.kind == "gradient":
        along = cos * (x - 0.5 * width / unit) + sin * (y - 0.5 * height / unit)
        return 0.5 + along * (unit / (abs(cos) * width + abs(sin) * height))
    # A sine of this steepness, clipped, is a stripe with an edge one pixel wide.
    turn, phase = math.pi * background.frequency, background.phase
    steepness = unit / turn
    if background.kind == "stripes":
        wave = np.sin(turn * (cos * x + sin * y) + phase)
    elif background.kind == "checker":
        wave = np.sin(turn * x + phase) * np.sin(turn * y + phase)
    else:
        raise ValueError(f"unknown background '{background.kind}'; known: {BACKGROUNDS}")
    return np.minimum(np.maximum(0.5 + steepness * wave, 0.0), 1.0)


def _signed(rgb: Sequence[float]) -> Array:
    return (np.array(rgb, np.float32) * 2.0 - 1.0)[:, None, None]


@cache
def _palette(colour: str) -> Array:
    return _signed(PALETTE[colour])


@lru_cache(maxsize=64)
def _centres(n: int) -> Array:
    return np.arange(n, dtype=np.float32) + np.float32(0.5)


@lru_cache(maxsize=64)
def _interpolation(n: int) -> Array:
    """Linear interpolation from ``_PATTERN_CELLS`` cells to ``n`` pixels, as a matrix."""
    position = (np.arange(n) + 0.5) / n * (_PATTERN_CELLS - 1)
    distance = np.abs(position[:, None] - np.arange(_PATTERN_CELLS))
    return np.maximum(1.0 - distance, 0.0).astype(np.float32)
