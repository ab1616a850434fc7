"""Images that belong to each other in pairs: distances of all of them, inside and outside masks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ldm.evaluation.reconstruction import DATA_RANGE, SSIM_WINDOW, psnr, ssim
from ldm.evaluation.reconstruction_statistics import Distance, PerImage


class Parts(NamedTuple):
    """A filled image taken apart; whatever is measured of one part is blind to the other.

    Both are whole images, so any network can look at them, and each can be given to any metric of
    pairs or of sets in place of the filled image.

    - A pair distance (LPIPS) of ``inside`` and the real image is what the filling alone costs, its
      border included. It is a mean over the whole image: half the hole is about half the distance,
      so only numbers of the same masks compare.
    - A Fréchet distance of ``inside`` and real images is what inpainting papers call FID: their
      methods paste the known pixels back. As most pixels are real ones, it is far below the FID of
      free samples and shrinks with the holes.
    - ``outside`` says what the model does to pixels that it was given: 0 if they are pasted back,
      else about what its first stage loses.

    Attributes:
        inside: the filling, surrounded by the real image.
        outside: the rest of the filled image, around a hole that shows the real one.
    """

    inside: Tensor
    outside: Tensor


def split_by_mask(real: Tensor, filled: Tensor, mask: Tensor) -> Parts:
    """What belongs to the hole and what does not, each completed by the real image.

    Args:
        real: images (B, C, H, W).
        filled: of the same shape.
        mask: (B, 1, H, W), 1 = hole.

    Raises:
        ValueError: shapes do not fit, or the mask holds other values than 0 and 1.
    """
    _check(real, filled, mask)
    hole = mask == 1
    return Parts(torch.where(hole, filled, real), torch.where(hole, real, filled))


def masked_psnr(real: Tensor, filled: Tensor, mask: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB over the pixels of the hole only, (B,).

    Unlike a distance of ``split_by_mask`` it does not depend on the size of the hole. With
    ``1 - mask``: of the known pixels. NaN for an image without such pixels.

    Args:
        real: images (B, C, H, W) in [-1, 1].
        filled: of the same shape; values outside [-1, 1] are clamped.
        mask: (B, 1, H, W), 1 = hole.

    Raises:
        ValueError: as for :func:`split_by_mask`.
    """
    _check(real, filled, mask)
    hole = mask.double()
    squares = (real.double() - filled.double().clamp(-1, 1)).square() * hole
    error = squares.flatten(1).sum(1) / (hole.flatten(1).sum(1) * real.shape[1])
    return (10 * torch.log10(DATA_RANGE**2 / error)).float()


class PairStatistics:
    """PSNR, SSIM and, with a network, LPIPS of pairs, gathered batch by batch; one value a pair.

    Args:
        lpips: distance of images (B, C, H, W) in [-1, 1], one number per image; None = none.

    Attributes:
        count: pairs seen.
        values: each metric by name: ``psnr``; ``ssim`` unless an image was smaller than its window;
            ``lpips``; and of pairs with masks ``psnr_inside``, ``psnr_outside``, ``lpips_inside``
            and ``lpips_outside`` (see :class:`Parts`).
    """

    def __init__(self, lpips: Distance | None = None) -> None:
        self.count = 0
        self.values: dict[str, PerImage] = {}
        self._lpips = lpips
        self._too_small = False

    @torch.no_grad()
    def update(self, real: Tensor, fake: Tensor, mask: Tensor | None = None) -> PairStatistics:
        """Add pairs; returns itself.

        Args:
            real: images (B, C, H, W) in [-1, 1].
            fake: of the same shape; values outside [-1, 1] are clamped.
            mask: (B, 1, H, W), 1 = hole; None = there are no holes.

        Raises:
            ValueError: shapes do not fit, or the mask holds other values than 0 and 1.
        """
        fake = fake.clamp(-1, 1)
        self.count += len(real)
        self._add("psnr", psnr(real, fake))
        if min(real.shape[2:]) < SSIM_WINDOW:
            self._too_small = True
            self.values.pop("ssim", None)
        if not self._too_small:
            self._add("ssim", ssim(real, fake))
        if self._lpips is not None:
            self._add("lpips", self._lpips(real, fake))
        if mask is not None:
            self._add_parts(real, fake, mask)
        return self

    def _add_parts(self, real: Tensor, fake: Tensor, mask: Tensor) -> None:
        self._add("psnr_inside", masked_psnr(real, fake, mask))
        self._add("psnr_outside", masked_psnr(real, fake, 1 - mask))
        if self._lpips is not None:
            parts = split_by_mask(real, fake, mask)
            self._add("lpips_inside", self._lpips(real, parts.inside))
            self._add("lpips_outside", self._lpips(real, parts.outside))

    def _add(self, name: str, values: Tensor) -> None:
        self.values.setdefault(name, PerImage()).add(values)


def _check(real: Tensor, filled: Tensor, mask: Tensor) -> None:
    fits = real.ndim == 4 and mask.shape == (len(real), 1, *real.shape[2:])
    if not fits or real.shape != filled.shape:
        shapes = f"{tuple(real.shape)}, {tuple(filled.shape)} and mask {tuple(mask.shape)}"
        raise ValueError(f"images {shapes} do not fit")
    if not ((mask == 0) | (mask == 1)).all():
        raise ValueError("the mask holds other values than 0 and 1")
