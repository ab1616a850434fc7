"""How close reconstructions are to their originals, one value per image."""

from __future__ import annotations

import math

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
