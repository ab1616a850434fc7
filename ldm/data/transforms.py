"""Framing of a photograph: resize, crop, flip, and the way to a tensor in [-1, 1]."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

Uniform = Callable[[], float]


@dataclass(frozen=True)
class Framing:
    """Resize an image so that it covers the crop, cut the crop out, perhaps mirror it.

    Attributes:
        height: of the result, in pixels.
        width: of the result, in pixels.
        resize: shorter side before the crop; None = the smallest that covers the crop.
        crop: center or random.
        flip: probability of a horizontal mirror image.
    """

    height: int
    width: int
    resize: int | None = None
    crop: str = "center"
    flip: float = 0.0

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1:
            raise ValueError(f"size {self.height} x {self.width} must be positive")
        if self.crop not in ("center", "random"):
            raise ValueError(f"crop '{self.crop}' is neither 'center' nor 'random'")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"flip {self.flip} is not a probability")
        if self.resize is not None and self.resize < max(self.height, self.width):
            raise ValueError(f"resize {self.resize} is below the crop {self.height} x {self.width}")

    def scale(self, width: int, height: int) -> float:
        """Factor by which an image of this size is resized: above 1 it is enlarged."""
        if self.resize is not None:
            return self.resize / min(width, height)
        return max(self.width / width, self.height / height)

    def __call__(self, image: Image.Image, uniform: Uniform) -> Image.Image:
        """Frame an RGB image; ``uniform`` gives the draws in [0, 1) of crop and flip.

        Cropping and resizing are one bicubic, anti-aliased step; the crop starts at a whole
        pixel, so an image that needs no resizing is copied exactly.
        """
        scale = self.scale(*image.size)
        width = min(self.width / scale, image.width)
        height = min(self.height / scale, image.height)
        u, v, mirror = uniform(), uniform(), uniform()
        if self.crop == "center":
            left, top = (image.width - width) // 2, (image.height - height) // 2
        else:
            left = min(int(u * (image.width - width + 1)), image.width - width)
            top = min(int(v * (image.height - height + 1)), image.height - height)
        framed = image.resize(
            (self.width, self.height),
            Image.Resampling.BICUBIC,
            box=(left, top, left + width, top + height),
        )
        if mirror < self.flip:
            return framed.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return framed


def to_tensor(image: Image.Image) -> Tensor:
    """An RGB image as float (3, H, W) in [-1, 1]."""
    pixels = torch.from_numpy(np.array(image, np.uint8))
    return pixels.permute(2, 0, 1).float().div_(127.5).sub_(1).contiguous()
