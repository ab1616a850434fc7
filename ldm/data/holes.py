"""Holes in images: how they are shown to a model, and how a filling gets back into the image."""

from __future__ import annotations

import torch
from torch import Tensor


def fill_with_mean(image: Tensor, mask: Tensor) -> Tensor:
    """Fill a hole with the mean colour of what is known; with mid-grey where nothing is.

    For an encoder that has never seen holes: the mean is the colour that shows least.

    Args:
        image: (C, H, W) in [-1, 1].
        mask: (1, H, W), 1 = hole.
    """
    known = 1 - mask
    count = known.sum()
    mean = (image * known).sum((1, 2), keepdim=True) / count.clamp_min(1)
    return torch.where(mask == 1, mean, image)


def blacken(image: Tensor, mask: Tensor) -> Tensor:
    """(1 - mask) * image as the published inpainting model has it, made in [0, 1]: -1 in the hole.

    Args:
        image: (..., C, H, W) in [-1, 1].
        mask: (..., 1, H, W), 1 = hole.
    """
    return image.masked_fill(mask == 1, -1)


def paste(filling: Tensor, image: Tensor, mask: Tensor) -> Tensor:
    """The filling in the hole, the image itself everywhere else.

    Args:
        filling: (..., C, H, W) in [-1, 1].
        image: of the same shape.
        mask: (..., 1, H, W), 1 = hole.
    """
    return torch.where(mask == 1, filling, image)
