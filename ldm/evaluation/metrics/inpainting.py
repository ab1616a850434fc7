"""How well holes in images are filled: error against the original, and seams at the border."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ldm.data.inpainting.blending import fill_with_mean


class GradientJump(NamedTuple):
    """Mean absolute difference of neighbouring pixels, one value per image.

    Attributes:
        border: (B,) of pairs of which one pixel lies in the hole, nan where there are none.
        interior: (B,) of pairs within the hole, nan where there are none.
    """

    border: Tensor
    interior: Tensor

    @property
    def ratio(self) -> float:
        """Mean border difference over mean interior difference, over all images.

        At most 1.2 is good. Real images have about 1 whatever the masks (scenes of 32 pixels, the
        masks of LaMa: 1.00 to 1.08 for 1000 images, 0.87 to 1.09 for 200: report it beside the
        samples'). A piece of another scene has 8, a flat filling infinity; too little contrast in
        the hole raises it as a seam does. It is a ratio of means, because the hole of one image is
        often flat, and such holes would rule a mean of ratios.
        """
        border, interior = self.border.double().nanmean(), self.interior.double().nanmean()
        return float(border / interior)


def hole_error(real: Tensor, image: Tensor, mask: Tensor) -> Tensor:
    """Root mean square error (B,) over the pixels of the hole, of values in [0, 1].

    0 is a copy. A good filling is well below that of ``mean_fill``. Where the known pixels do not
    say what was in the hole, samples of a perfect model are not 0 either: their mean square error
    is twice that of the best single guess. On scenes of 32 pixels with the masks of LaMa the mean
    over images is 0.16 to 0.18 for ``mean_fill`` and 0.25 to 0.27 for a piece of another scene.

    Args:
        real: images (B, C, H, W) in [-1, 1].
        image: the filled ones, of the same shape; values outside [-1, 1] are clamped.
        mask: (B, 1, H, W), 1 = hole.

    Raises:
        ValueError: shapes do not fit, the mask holds other values than 0 and 1, or an image has
            no hole.
    """
    _check(real, mask)
    if real.shape != image.shape:
        raise ValueError(f"real {tuple(real.shape)} and image {tuple(image.shape)} do not fit")
    hole = mask.double()
    squares = (real.double() - image.double().clamp(-1, 1)).square() / 4 * hole
    return (squares.flatten(1).sum(1) / (hole.flatten(1).sum(1) * real.shape[1])).sqrt().float()


def mean_fill(real: Tensor, mask: Tensor) -> Tensor:
    """The images (B, C, H, W), the hole filled with the mean colour of the known pixels of each.

    Args:
        real: images (B, C, H, W) in [-1, 1].
        mask: (B, 1, H, W), 1 = hole.
    """
    _check(real, mask)
    pairs = zip(real, mask.to(real), strict=True)
    return torch.stack([fill_with_mean(image, hole) for image, hole in pairs])


def gradient_jump(image: Tensor, mask: Tensor) -> GradientJump:
    """Differences of neighbouring pixels across the border of the hole and within the hole.

    Neighbours are the four next pixels; the absolute difference, of values in [0, 1], is averaged
    over the channels and over the pairs of one image. One value per image, so that batches can be
    joined and errors estimated; read ``GradientJump.ratio`` of them all, not one by one.

    Args:
        image: (B, C, H, W) in [-1, 1]; values outside are clamped.
        mask: (B, 1, H, W), 1 = hole.

    Raises:
        ValueError: shapes do not fit, the mask holds other values than 0 and 1, or an image has
            no hole.
    """
    _check(image, mask)
    hole = mask.bool()
    image = image.double().clamp(-1, 1) / 2
    differences, border, interior = [], [], []
    for axis in (2, 3):
        difference = image.diff(dim=axis).abs().mean(1, keepdim=True)
        size = hole.shape[axis] - 1
        first, second = hole.narrow(axis, 0, size), hole.narrow(axis, 1, size)
        differences.append(difference.flatten(1))
        border.append((first ^ second).flatten(1))
        interior.append((first & second).flatten(1))
    values = torch.cat(differences, 1)
    return GradientJump(_mean(values, torch.cat(border, 1)), _mean(values, torch.cat(interior, 1)))


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    """Mean (B,) of the chosen values (B, N) of each row, nan where none is."""
    return ((values * chosen).sum(1) / chosen.sum(1)).float()


def _check(images: Tensor, mask: Tensor) -> None:
    fits = images.ndim == 4 and mask.shape == (len(images), 1, *images.shape[2:])
    if not fits:
        raise ValueError(f"images {tuple(images.shape)} and mask {tuple(mask.shape)} do not fit")
    if not ((mask == 0) | (mask == 1)).all():
        raise ValueError("the mask holds other values than 0 and 1")
    empty = ~mask.bool().flatten(1).any(1)
    if empty.any():
        raise ValueError(f"image {int(empty.nonzero()[0])} of the batch has no hole")
