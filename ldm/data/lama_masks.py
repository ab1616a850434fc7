"""The masks of LaMa (arXiv 2109.07161), with which the paper's inpainting models are measured."""

from __future__ import annotations

from collections.abc import Mapping

from ldm.data.masks import Boxes, Mixture, Strokes
from ldm.errors import DataError

# The published settings end at one stroke less; the code that reads them adds one.
SETS: Mapping[str, Mixture] = {
    "training-256": Mixture(
        (Strokes(256, (1, 6), 200, 100), Boxes(256, (1, 4), (30, 150), 10)), (1, 1)
    ),
    "thick-512": Mixture(
        (Strokes(512, (1, 6), 450, 250), Boxes(512, (1, 4), (30, 300), 10)), (1, 0.3), 0.5
    ),
    "medium-512": Mixture(
        (Strokes(512, (4, 11), 200, 100), Boxes(512, (1, 5), (30, 150), 0)), (1, 0.3), 0.5
    ),
    "thin-512": Mixture((Strokes(512, (4, 71), 100, 20),), (1,), 0.5),
    "thick-256": Mixture(
        (Strokes(256, (1, 6), 200, 100), Boxes(256, (1, 3), (30, 150), 10)), (1, 0.3), 0.5
    ),
    "medium-256": Mixture(
        (Strokes(256, (4, 6), 100, 50), Boxes(256, (1, 5), (10, 50), 0)), (1, 0.3), 0.5
    ),
    "thin-256": Mixture((Strokes(256, (4, 51), 40, 10),), (1,), 0.5),
}
"""The masks that LaMa trains with (at 256 pixels, of any area) and those it is measured with."""


def lama_masks(name: str) -> Mixture:
    """One of ``SETS``, for images of any size.

    Raises:
        DataError: there is no such set.
    """
    if name not in SETS:
        raise DataError(f"masks: '{name}' is not one of {', '.join(SETS)}")
    return SETS[name]
