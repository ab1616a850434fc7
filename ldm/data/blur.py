"""Gaussian kernels of any covariance, and the convolution of an image with them."""

from __future__ import annotations

import numpy as np
from scipy.signal import fftconvolve


def gaussian_kernel(size: int, covariance: np.ndarray, shift: float = 0.0) -> np.ndarray:
    """A normal density at the places of a grid, normalised to the sum 1.

    Args:
        size: side of the kernel; if it is even the centre lies between two places.
        covariance: (2, 2), of (x, y), in pixels squared; positive definite.
        shift: by which the centre is moved up and left, in pixels.

    Returns:
        (size, size), float64.
    """
    places = np.arange(size) - (size - 1) / 2 + shift
    y, x = np.meshgrid(places, places, indexing="ij")
    (a, b), (_, c) = covariance
    # a tiny variance divides by (nearly) zero: the nearest places get all
    determinant = max(a * c - b * b, 1e-300)
    exponent = -0.5 * (c * x * x - 2 * b * x * y + a * y * y) / determinant
    kernel = np.exp(exponent - exponent.max())
    return np.asarray(kernel / kernel.sum())


def covariance(variances: tuple[float, float], angle: float) -> np.ndarray:
    """The matrix (2, 2) with these variances along two axes, the first at this angle to x."""
    cosine, sine = np.cos(angle), np.sin(angle)
    rotation = np.array([[cosine, -sine], [sine, cosine]])
    return np.asarray(rotation @ np.diag(variances) @ rotation.T)


def blur(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """An image (H, W, C), convolved with a kernel (h, w); its borders are mirrored.

    The kernel's centre is at (h // 2, w // 2); so one of even size moves the image by half a pixel
    (``scipy.ndimage.convolve`` does the same).
    """
    pads = [((side - 1) // 2, side // 2) for side in kernel.shape]
    padded = np.pad(image, [*pads, (0, 0)], mode="reflect")
    blurred = fftconvolve(padded, kernel[:, :, None].astype(image.dtype), mode="valid", axes=(0, 1))
    return np.asarray(blurred)
