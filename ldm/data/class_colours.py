"""One colour per class, to look at layouts and label maps."""

from __future__ import annotations

import colorsys

import numpy as np
from numpy.typing import NDArray

_GOLDEN = 0.61803398875  # neighbouring ids get hues far apart, however many classes there are
_SHADES = (
    (0.80, 0.95),
    (0.45, 0.80),
    (0.95, 0.60),
    (0.60, 0.45),
    (0.30, 0.95),
)  # saturation, value


def class_colours(count: int) -> NDArray[np.uint8]:
    """RGB colours (count, 3) of the classes 0 to count - 1; none of them is grey or black."""
    colours = [
        colorsys.hsv_to_rgb(i * _GOLDEN % 1, *_SHADES[i % len(_SHADES)]) for i in range(count)
    ]
    return np.round(np.array(colours).reshape(count, 3) * 255).astype(np.uint8)
