"""Resizing of an array as OpenCV does it: without anti-aliasing, or by area."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

METHODS = ("bilinear", "bicubic", "area")


def resize(
    image: np.ndarray, size: tuple[int, int], method: str, antialias: bool = False
) -> np.ndarray:
    """An image (H, W, C), float32, in another size (height, width).

    Args:
        image: the image.
        size: of the result.
        method: bilinear; bicubic, which may overshoot; or area, the mean over what a pixel covers.
        antialias: widen bilinear and bicubic filters where the image shrinks.
    """
    if size == image.shape[:2]:
        return image
    if method == "area":
        rows, columns = (
            _coverage(old, new) for old, new in zip(image.shape[:2], size, strict=True)
        )
        return np.einsum("ih,hwc,jw->ijc", rows, image, columns, optimize=True)
    planes = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    small = F.interpolate(planes[None], size, mode=method, antialias=antialias)[0]
    return small.permute(1, 2, 0).numpy()


def _coverage(old: int, new: int) -> np.ndarray:
    """Share (new, old) that each old pixel has in each new one."""
    edges = np.arange(new + 1) * (old / new)
    places = np.arange(old)
    low = np.maximum(edges[:-1, None], places)
    high = np.minimum(edges[1:, None], places + 1)
    return ((high - low).clip(0) * (new / old)).astype(np.float32)
