"""Does an image of a synthetic scene show the label map that it was made from?"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ldm.data.scenes.captions import CLASS_NAMES
from ldm.evaluation.scenes.judge import find_regions

UNNAMED = -1
"""Label of pixels of an object that the judge cannot name: they agree with no map."""


class MapAgreement(NamedTuple):
    """Agreement of two label maps; the mean over many images is the figure to report.

    The values in the text are those of scenes with 1 to 3 objects at 32 pixels.

    Attributes:
        pixels: share of equal pixels. Real scenes reach 0.998, but background without objects
            gets 0.81 and a model that ignores the map 0.68: 0.85 means little without ``objects``.
        objects: share of equal pixels among those where either map shows an object. Real scenes
            reach 0.99; background alone gets 0, a model that ignores the map 0.01.
        mean_iou: intersection over union, the mean over the classes of the given map, background
            aside: 0.99 on real scenes, 0 and 0.01 for the others. What is drawn beside the map's
            objects in classes that it does not hold changes only the two shares.
    """

    pixels: float
    objects: float
    mean_iou: float


def recover_map(image: Tensor) -> Tensor:
    """The label map (H, W), int64, that an image shows, as far as the judge can see.

    Args:
        image: (3, H, W) in [-1, 1]; values outside are clamped.

    Returns:
        0 = background, k = class k - 1 of ``CLASS_NAMES``, ``UNNAMED`` = an object that is none
        of them. At best it is as good as on real scenes: see ``MapAgreement``.
    """
    labels = torch.zeros(image.shape[-2:], dtype=torch.int64)
    for item, pixels in find_regions(image):
        name = f"{item.colour} {item.shape}"
        label = CLASS_NAMES.index(name) + 1 if name in CLASS_NAMES else UNNAMED
        labels[torch.from_numpy(pixels)] = label
    return labels


def map_agreement(given: Tensor, recovered: Tensor) -> MapAgreement:
    """Compare a map with the one that was recovered from the image made from it.

    Args:
        given: ids (H, W), 0 = background.
        recovered: the same shape.

    Raises:
        ValueError: the shapes differ, or the given map holds no object.
    """
    if given.ndim != 2 or given.shape != recovered.shape:
        raise ValueError(f"maps {tuple(given.shape)} and {tuple(recovered.shape)} do not fit")
    classes = [int(label) for label in given.unique() if label != 0]
    if not classes:
        raise ValueError("the given map holds no object")
    equal = given == recovered
    shown = (given != 0) | (recovered != 0)
    overlaps = [_iou(given == label, recovered == label) for label in classes]
    return MapAgreement(
        pixels=float(equal.double().mean()),
        objects=float(equal[shown].double().mean()),
        mean_iou=sum(overlaps) / len(overlaps),
    )


def _iou(a: Tensor, b: Tensor) -> float:
    return float((a & b).sum() / (a | b).sum())
