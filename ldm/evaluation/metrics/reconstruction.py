"""How close images are to their originals, one value per image: PSNR, SSIM and any such distance.

``ReconstructionStatistics`` gathers them for a first stage, ``PairStatistics`` for any pairs, also
inside and outside masks.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

DATA_RANGE = 2.0
"""From -1 to 1."""

SSIM_WINDOW = 11
"""Side of the window of SSIM, and the smallest side of an image."""

_RADIUS = SSIM_WINDOW // 2
_GAUSSIAN = [math.exp(-0.5 * (i / 1.5) ** 2) for i in range(-_RADIUS, _RADIUS + 1)]
_WINDOW = [weight / sum(_GAUSSIAN) for weight in _GAUSSIAN]


def psnr(real: Tensor, reconstruction: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, (B,); infinite for an exact copy.

    Args:
        real: images (B, C, H, W) in [-1, 1].
        reconstruction: the same shape; values outside [-1, 1] are clamped.
    """
    _check_shapes(real, reconstruction)
    error = (real.float() - reconstruction.float().clamp(-1, 1)).square().flatten(1).mean(1)
    return 10 * torch.log10(DATA_RANGE**2 / error)


def ssim(real: Tensor, reconstruction: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004), the mean over channels and windows, (B,).

    The Gaussian window of 11 pixels (sigma 1.5) is placed wherever it fits into the image, as in
    the paper; some libraries also count windows across the border, which matters the more, the
    smaller the images are.

    Args:
        real: images (B, C, H, W) in [-1, 1], 11 pixels or more on a side.
        reconstruction: the same shape; values outside [-1, 1] are clamped.
    """
    _check_shapes(real, reconstruction)
    if min(real.shape[2:]) < SSIM_WINDOW:
        raise ValueError(f"SSIM needs {SSIM_WINDOW} x {SSIM_WINDOW} pixels: {tuple(real.shape)}")
    wide = torch.float32 if real.device.type == "mps" else torch.float64  # it has no float64
    x, y = real.to(wide), reconstruction.to(wide).clamp(-1, 1)
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    var_x = _window_mean(x * x) - mean_x * mean_x
    var_y = _window_mean(y * y) - mean_y * mean_y
    cov = _window_mean(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * DATA_RANGE) ** 2, (0.03 * DATA_RANGE) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x * mean_x + mean_y * mean_y + c1)
    structure = (2 * cov + c2) / (var_x + var_y + c2)
    return (luminance * structure).flatten(1).mean(1).float()


def resampled(images: Tensor, factor: int) -> Tensor:
    """The images shrunk ``factor`` times (mean over blocks) and enlarged again (bicubic).

    A copy from as many positions as a latent with f = ``factor`` has, made without any learning:
    what a first stage must beat.

    Args:
        images: (B, C, H, W) in [-1, 1], H and W multiples of ``factor``.
        factor: f.
    """
    if factor == 1:
        return images
    small = F.avg_pool2d(images.float(), factor)
    large = F.interpolate(small, images.shape[2:], mode="bicubic", align_corners=False)
    return large.clamp(-1, 1)


def saturated(images: Tensor) -> Tensor:
    """Share (B,) of the values of each image that lie at -1 or 1, to 8 bits, or beyond."""
    return (images.abs() >= 1 - 1 / 255).float().flatten(1).mean(1)


def _window_mean(x: Tensor) -> Tensor:
    """Gaussian mean of every window that fits, (B, C, H - 10, W - 10)."""
    window = torch.tensor(_WINDOW, dtype=x.dtype, device=x.device)
    flat = x.flatten(0, 1)[:, None]
    means = F.conv2d(F.conv2d(flat, window[None, None, :, None]), window[None, None, None])
    return means[:, 0].unflatten(0, x.shape[:2])


def _check_shapes(real: Tensor, reconstruction: Tensor) -> None:
    if real.ndim != 4 or real.shape != reconstruction.shape:
        raise ValueError(
            f"images {tuple(real.shape)} and reconstructions {tuple(reconstruction.shape)} "
            "must have one shape (B, C, H, W)"
        )


Distance = Callable[[Tensor, Tensor], Tensor]


class PerImage:
    """A metric with one value per image; all of them are kept, 8 bytes each."""

    def __init__(self) -> None:
        self._values = array("d")  # not tensors: so many small ones would fragment the heap

    def add(self, values: Tensor) -> None:
        """Append the values (B,) of a batch."""
        self._values.extend(values.detach().flatten().tolist())

    @property
    def values(self) -> Tensor:
        """All values (N,), float64."""
        if not self._values:
            raise ValueError("no image was seen")
        return torch.tensor(self._values, dtype=torch.float64)

    @property
    def mean(self) -> float:
        """Mean over the images."""
        return float(self.values.mean())

    @property
    def median(self) -> float:
        """Median over the images, of which a few infinite ones do not make an infinity."""
        return float(self.values.median())

    @property
    def std(self) -> float | None:
        """Standard deviation over the images (divisor N - 1); None where it does not exist."""
        values = self.values
        if len(values) < 2 or not values.isfinite().all():
            return None
        return float(values.std())


class ReconstructionStatistics:
    """PSNR, SSIM, saturation and, with a network, LPIPS of reconstructions.

    Args:
        factor: downsampling factor f of the first stage, for the comparison with resampling.
        lpips: distance of images (B, C, H, W), one number per image.

    Attributes:
        images: number of images seen.
        nonfinite: how many reconstructions held NaN or infinity.
        psnr: in dB.
        ssim: None if the images are smaller than its window.
        lpips: None without a network.
        resampled_psnr: PSNR of the images shrunk by f and enlarged again; None for f = 1.
        saturated: share of the reconstructions' values at the ends of the range.
        saturated_originals: the same of the originals.
    """

    def __init__(self, factor: int, lpips: Distance | None = None) -> None:
        self.images = 0
        self.nonfinite = 0
        self.psnr = PerImage()
        self.ssim: PerImage | None = PerImage()
        self.lpips = PerImage() if lpips is not None else None
        self.resampled_psnr = PerImage() if factor > 1 else None
        self.saturated = PerImage()
        self.saturated_originals = PerImage()
        self._factor = factor
        self._distance = lpips

    def update(self, x: Tensor, decoded: Tensor) -> Tensor:
        """Add images (B, C, H, W) in [-1, 1] and what the decoder made of them.

        Returns:
            The reconstructions as they are measured: clamped to [-1, 1], NaN as 0.
        """
        self.images += len(x)
        self.nonfinite += int((~decoded.flatten(1).isfinite().all(1)).sum())
        decoded = decoded.float().nan_to_num(nan=0.0, posinf=1.0, neginf=-1.0)
        y = decoded.clamp(-1, 1)
        self.saturated.add(saturated(decoded))
        self.saturated_originals.add(saturated(x))
        self.psnr.add(psnr(x, y))
        if min(x.shape[2:]) < SSIM_WINDOW:
            self.ssim = None
        if self.ssim is not None:
            self.ssim.add(ssim(x, y))
        if self.resampled_psnr is not None:
            self.resampled_psnr.add(psnr(x, resampled(x, self._factor)))
        if self.lpips is not None and self._distance is not None:
            self.lpips.add(self._distance(x, y))
        return y


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
