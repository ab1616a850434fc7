"""An exact judge for synthetic scenes: does an image show what its caption says?

The colours are found by hue: on the plane of opponent colours, mixing a saturated colour with a
grey background moves a pixel along a straight line from the origin, so the position along the
palette's direction is the fraction of the pixel that the object covers, blurred or anti-aliased.
A connected region is named after the shape that overlaps it best when drawn with the same area
and centre of mass, both of which a blur leaves unchanged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from ldm.data.scenes.captions import COLOURS, SHAPES, SceneSpec, parse_caption, relation_between
from ldm.data.scenes.drawing import CROSS_ARM, PALETTE, shape_coverage
from ldm.errors import DataError

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

ASPECTS = {
    "shape_and_colour": "share that shows all that is named",
    "count": "exactly what is named",
    "relation": "left of, above, ..., where the caption says so",
    "correct": "all of these",
}
"""What ``summarise`` counts, in the words of a report."""

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


_COLOUR_DIRECTIONS = np.array([_opponent(np.array(PALETTE[c])) for c in COLOURS])
_CHROMA = np.linalg.norm(_COLOUR_DIRECTIONS, axis=1)
_DIRECTIONS = _COLOUR_DIRECTIONS / _CHROMA[:, None]


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


@dataclass(frozen=True)
class Verdict:
    """What of a caption an image shows.

    Attributes:
        shape_and_colour: every coloured shape of the caption is in the image.
        count: the image holds exactly the objects of the caption and no others.
        relation: the two objects stand as the caption says; None if it does not say.
    """

    shape_and_colour: bool
    count: bool
    relation: bool | None

    @property
    def correct(self) -> bool:
        """The image shows all that the caption says and nothing else."""
        return self.shape_and_colour and self.count and self.relation is not False


class CaptionedImages(Protocol):
    """A data set whose items hold ``image`` and ``caption``."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...


def check(image: Tensor, caption: str) -> Verdict:
    """Judge an image (3, H, W) in [-1, 1] by its caption.

    Raises:
        DataError: the caption is not one of the synthetic scenes' language.
    """
    spec = parse_caption(caption)
    found = judge(image)
    wanted = spec.counts()
    shown = Counter((item.shape, item.colour) for item in found)
    present = all(shown[key] > 0 for key in wanted)
    relation = None
    if spec.relation is not None:
        relation = present and _holds(spec, found, image.shape[2] / image.shape[1])
    return Verdict(present, shown == wanted, relation)


def summarise(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """Shares of verdicts that are right, by aspect.

    Returns:
        ``shape_and_colour``, ``count``, ``correct`` and, among the captions that say one,
        ``relation`` (absent if none does).
    """
    if not verdicts:
        raise ValueError("there are no verdicts to summarise")
    n = len(verdicts)
    shares = {
        "shape_and_colour": sum(v.shape_and_colour for v in verdicts) / n,
        "count": sum(v.count for v in verdicts) / n,
        "correct": sum(v.correct for v in verdicts) / n,
    }
    related = [v.relation for v in verdicts if v.relation is not None]
    if related:
        shares["relation"] = sum(related) / len(related)
    return shares


def validate_judge(dataset: CaptionedImages, n: int = 500) -> float:
    """Share of the first ``n`` real scenes on which the judge is right in everything.

    To be called before the judge may judge samples.

    Raises:
        DataError: it is right on fewer than 99 %.
    """
    n = min(n, len(dataset))
    items = (dataset[i] for i in range(n))
    accuracy = sum(check(item["image"], item["caption"]).correct for item in items) / n
    if accuracy < 0.99:
        raise DataError(
            f"the judge is right on only {accuracy:.1%} of {n} real scenes, 99 % are needed: use "
            "unaltered scenes of ldm.data.scenes.dataset, at 32 pixels or more"
        )
    return accuracy


def _holds(spec: SceneSpec, found: Sequence[FoundObject], aspect: float) -> bool:
    """Whether any objects of the two classes of ``spec`` stand in its relation."""
    first, second = (
        [f for f in found if (f.shape, f.colour) == (item.shape, item.colour)]
        for item in spec.items
    )
    return any(
        relation_between(a.box, b.box, aspect) == spec.relation
        for a, b in product(first, second)
        if a is not b
    )
