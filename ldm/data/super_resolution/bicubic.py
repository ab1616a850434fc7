"""How a small image comes from a large one: the degradation that super-resolution undoes.

A degradation is called as ``degradation(image, generator)`` with a float image (C, H, W) in
[-1, 1] and returns (C, H / factor, W / factor) in [-1, 1]; all chance is in the generator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from ldm.errors import DataError

Degradation: TypeAlias = Callable[[Tensor, np.random.Generator], Tensor]
"""``degradation(image, generator)``: (C, H, W) -> (C, H / factor, W / factor), in [-1, 1]."""


@dataclass(frozen=True)
class Bicubic:
    """Bicubic interpolation with anti-aliasing: the degradation of SR3 and of the paper's Table 5.

    Attributes:
        factor: by which both sides shrink.
    """

    factor: int = 4

    def __post_init__(self) -> None:
        check_factor(self.factor)

    def __call__(self, image: Tensor, _generator: np.random.Generator) -> Tensor:
        """(C, H, W) -> (C, H / factor, W / factor); nothing is random.

        Raises:
            DataError: a side is no multiple of the factor.
        """
        size = small_size(image, self.factor)
        small = F.interpolate(image[None].float(), size, mode="bicubic", antialias=True)[0]
        return small.clamp(-1, 1)  # cubic interpolation overshoots at edges


def check_factor(factor: int) -> None:
    """Refuse factors below 1.

    Raises:
        DataError: it is.
    """
    if factor < 1:
        raise DataError(f"degradation: factor {factor} must be at least 1")


def small_size(image: Tensor, factor: int) -> tuple[int, int]:
    """Height and width of an image (C, H, W) that is ``factor`` times smaller.

    Raises:
        DataError: a side is no multiple of the factor.
    """
    height, width = image.shape[-2:]
    if height % factor or width % factor:
        raise DataError(
            f"degradation: an image of {height} x {width} pixels cannot shrink {factor} times: "
            f"sides must be multiples of {factor}"
        )
    return height // factor, width // factor
