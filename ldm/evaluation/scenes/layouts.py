"""Do the objects of a synthetic scene stand in the boxes that were asked for?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from scipy.optimize import linear_sum_assignment

from ldm.data.scenes.captions import CLASS_NAMES
from ldm.evaluation.scenes.judge import FoundObject

Box4: TypeAlias = tuple[float, float, float, float]
"""(x0, y0, x1, y1), shares of the image's width and height."""


class LayoutAgreement(NamedTuple):
    """How an image obeys its layout; the mean over many images is the figure to report.

    The values in the text are those of scenes with 1 to 3 objects at 32 pixels.

    Attributes:
        iou: intersection over union of asked and found boxes, the mean over the asked objects; 0
            for an object that is not found with its class. Above 0.6 the layout is obeyed. Real
            scenes reach 0.91, not 1, because a found box ends at whole pixels; a model that draws
            the right classes where it likes gets 0.25, one that ignores the layout 0.01.
        found: share of the asked objects whose class is anywhere in the image: 1 on real scenes,
            0.07 for a model that ignores the layout.
    """

    iou: float
    found: float


def layout_agreement(
    asked: Sequence[tuple[int, Box4]], found: Sequence[FoundObject]
) -> LayoutAgreement:
    """Compare a layout with what ``judge`` finds in the image made from it.

    Asked and found objects of one class are paired one to one, so that the sum of their IoU is as
    large as can be. Found objects that nobody asked for change nothing: look at the count of
    ``ldm.evaluation.scenes.judge.check`` for these.

    Args:
        asked: class id (an index into ``CLASS_NAMES``) and box of each object.
        found: the objects of the image.

    Raises:
        ValueError: there is no object to ask for, or a class id is unknown.
    """
    if not asked:
        raise ValueError("the layout holds no object")
    wrong = [label for label, _ in asked if not 0 <= label < len(CLASS_NAMES)]
    if wrong:
        raise ValueError(
            f"class {wrong[0]} of the layout is not one of 0 to {len(CLASS_NAMES) - 1}"
        )
    names = [CLASS_NAMES[label] for label, _ in asked]
    shown = [f"{item.colour} {item.shape}" for item in found]
    overlaps = np.zeros((len(asked), len(found)))
    for i, (name, (_, box)) in enumerate(zip(names, asked, strict=True)):
        for j, item in enumerate(found):
            overlaps[i, j] = box_iou(box, item.box) if shown[j] == name else 0.0
    rows, columns = linear_sum_assignment(overlaps, maximize=True)
    return LayoutAgreement(
        iou=float(overlaps[rows, columns].sum()) / len(asked),
        found=sum(name in shown for name in names) / len(asked),
    )


def box_iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes (x0, y0, x1, y1); 0 if neither has an area."""
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0.0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0.0)
    union = _area(a) + _area(b) - width * height
    return width * height / union if union > 0 else 0.0


def _area(box: Sequence[float]) -> float:
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)
