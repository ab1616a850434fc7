"""Random composition of a synthetic scene: which objects, how large, where, on what."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ldm.data.items import Uniform
from ldm.data.scenes.captions import RELATIONS
from ldm.data.scenes.drawing import BACKGROUNDS, Background, SceneObject

GAP = 0.07
"""Free space between the boxes of two objects, in units of the shorter image side."""

_MARGIN = 0.03
_RADII = {1: (0.20, 0.30), 2: (0.16, 0.20), 3: (0.145, 0.17)}
_DOMINANCE = 0.08
_UNIFORMS = 160


@dataclass(frozen=True)
class Scene:
    """Objects that do not overlap, on a background; ``relation`` is that of the first two."""

    objects: tuple[SceneObject, ...]
    background: Background
    relation: str | None


def sample_scene(
    rng: np.random.Generator,
    num_objects: tuple[int, int],
    shapes: Sequence[str],
    colours: Sequence[str],
    size: tuple[float, float] = (1.0, 1.0),
    backgrounds: Sequence[str] = BACKGROUNDS,
) -> Scene:
    """Compose a scene.

    Args:
        rng: source of all randomness.
        num_objects: smallest and largest number of objects, within 1 to 3, equally likely.
        shapes: shapes to choose from.
        colours: colours to choose from.
        size: (height, width) of the canvas in units of its shorter side.
        backgrounds: kinds of background to choose from.
    """
    # One block of draws as plain floats: a scalar draw from numpy costs as much as ten of these.
    uniform = iter(rng.random(_UNIFORMS).tolist()).__next__
    low, high = num_objects
    n = low + int(uniform() * (high - low + 1))
    classes = _choose_classes(uniform, n, shapes, colours)
    smallest, largest = _RADII[n]
    radii = [smallest + (largest - smallest) * uniform() for _ in range(n)]
    relation = RELATIONS[int(uniform() * 4)] if n == 2 else None
    background = _choose_background(uniform, backgrounds)
    if n == 1:
        places = [_anywhere(uniform, radii[0], size)]
    elif relation is not None:
        places = _place_related(uniform, radii, relation, size)
    else:
        places = _place_apart(uniform, radii, size)
    objects = tuple(
        SceneObject(shape, colour, x, y, radius)
        for (shape, colour), (x, y), radius in zip(classes, places, radii, strict=True)
    )
    return Scene(objects, background, relation)


def _choose_classes(
    uniform: Uniform, n: int, shapes: Sequence[str], colours: Sequence[str]
) -> list[tuple[str, str]]:
    """Classes of the objects; equal ones are made frequent enough to be learnt as counts."""
    classes: list[tuple[str, str]] = []
    agree = uniform()
    equal = n if agree < 0.25 else 2 if n == 3 and agree < 0.5 else 1
    while len(classes) < n:
        shape = shapes[int(uniform() * len(shapes))]
        colour = colours[int(uniform() * len(colours))]
        classes += [(shape, colour)] * (1 if classes else equal)
    return classes


def _choose_background(uniform: Uniform, kinds: Sequence[str]) -> Background:
    kind = kinds[int(uniform() * len(kinds))]
    level, step = 0.56 + 0.24 * uniform(), 0.07 + 0.07 * uniform()
    hue, tint = 2.0 * math.pi * uniform(), 0.055 * uniform()
    dark, light = _muted(level, hue, tint), _muted(level + step, hue + 0.7 * uniform(), tint)
    angle, frequency, phase = math.pi * uniform(), 4.0 + 5.0 * uniform(), 6.0 * uniform()
    cells = [uniform() for _ in range(36)] if kind == "clouds" else ()
    return Background(kind, dark, light, angle, frequency, phase, cells)


def _muted(level: float, hue: float, tint: float) -> tuple[float, float, float]:
    return (
        level + tint * math.cos(hue),
        level + tint * math.cos(hue - 2.0944),
        level + tint * math.cos(hue + 2.0944),
    )


def _anywhere(uniform: Uniform, radius: float, size: tuple[float, float]) -> tuple[float, float]:
    edge = _MARGIN + radius
    x = edge + (size[1] - 2 * edge) * uniform()
    y = edge + (size[0] - 2 * edge) * uniform()
    return x, y


def _place_related(
    uniform: Uniform, radii: Sequence[float], relation: str, size: tuple[float, float]
) -> list[tuple[float, float]]:
    """Two places, the first ``relation`` the second, clearly further apart along that axis."""
    sideways = relation in ("left of", "right of")
    length, breadth = (size[1], size[0]) if sideways else size
    swap = relation in ("right of", "below")
    a, b = (radii[1], radii[0]) if swap else (radii[0], radii[1])
    slack = length - 2 * _MARGIN - 2 * a - 2 * b - GAP
    cut = sorted((uniform(), uniform()))
    start = _MARGIN + a + slack * cut[0]
    end = start + a + GAP + b + slack * (cut[1] - cut[0])
    first = _MARGIN + a + (breadth - 2 * (_MARGIN + a)) * uniform()
    reach = end - start - _DOMINANCE
    low = max(_MARGIN + b, first - reach)
    high = min(breadth - _MARGIN - b, first + reach)
    second = low + (high - low) * uniform()
    ends = [(start, first), (end, second)]
    if swap:
        ends.reverse()
    return ends if sideways else [(y, x) for x, y in ends]


def _place_apart(
    uniform: Uniform, radii: Sequence[float], size: tuple[float, float]
) -> list[tuple[float, float]]:
    """Places of three objects: anywhere if a few tries succeed, else three of four quarters."""
    for _ in range(12):
        places = [_anywhere(uniform, radius, size) for radius in radii]
        if _are_apart(places, radii):
            return places
    corners = [(0, 0), (0, 1), (1, 0), (1, 1)]
    places = []
    for radius in radii:
        right, bottom = corners.pop(int(uniform() * len(corners)))
        half = ((size[0] - GAP) / 2 - _MARGIN, (size[1] - GAP) / 2 - _MARGIN)
        x = radius + (half[1] - 2 * radius) * uniform() + _MARGIN + right * (half[1] + GAP)
        y = radius + (half[0] - 2 * radius) * uniform() + _MARGIN + bottom * (half[0] + GAP)
        places.append((x, y))
    return places


def _are_apart(places: Sequence[tuple[float, float]], radii: Sequence[float]) -> bool:
    for i, (x, y) in enumerate(places):
        for j in range(i):
            reach = radii[i] + radii[j] + GAP
            if abs(x - places[j][0]) < reach and abs(y - places[j][1]) < reach:
                return False
    return True
