"""Blind degradation: blur, shrinking, noise and JPEG in random order (BSRGAN, arXiv 2103.14006).

The paper's BSR model (section 4.4, appendix D.6.1) is trained with the light variant. Numbers are
those of the code that was released with the paper, which resizes as OpenCV does: without
anti-aliasing, or by area. A step of a degradation is called as ``step(image, generator)`` with
float32 (H, W, 3) in [0, 1] and returns the same, perhaps smaller.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.signal import fftconvolve
from torch import Tensor

from ldm.data.super_resolution.bicubic import check_factor, small_size
from ldm.errors import DataError

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


Step: TypeAlias = Callable[[np.ndarray, np.random.Generator], np.ndarray]

NOISES = ("colour", "grey", "correlated")


@dataclass(frozen=True)
class Blur:
    """Convolution with a Gaussian.

    Attributes:
        size: side of the kernel.
        variances: along its two axes, in pixels squared.
        angle: of the first axis to x, in radians.
    """

    size: int
    variances: tuple[float, float]
    angle: float = 0.0

    def __call__(self, image: np.ndarray, _generator: np.random.Generator) -> np.ndarray:
        """(H, W, 3) -> (H, W, 3)."""
        kernel = gaussian_kernel(self.size, covariance(self.variances, self.angle))
        return blur(image, kernel)


@dataclass(frozen=True)
class Resize:
    """Resizing; see ``resize``.

    Attributes:
        size: height and width of the result.
        method: bilinear, bicubic or area.
        antialias: anti-alias the first two.
    """

    size: tuple[int, int]
    method: str
    antialias: bool = False

    def __call__(self, image: np.ndarray, _generator: np.random.Generator) -> np.ndarray:
        """(H, W, 3) -> (height, width, 3) in [0, 1]."""
        return resize(image, self.size, self.method, self.antialias).clip(0, 1)


@dataclass(frozen=True)
class Decimate:
    """Blur, then every ``factor``-th pixel of every ``factor``-th row.

    The kernel is moved so that the pixels taken stand for the centres of their blocks.

    Attributes:
        std: of the Gaussian, in pixels.
        factor: by which both sides shrink.
        size: side of the kernel.
    """

    std: float
    factor: int
    size: int = 25

    def __call__(self, image: np.ndarray, _generator: np.random.Generator) -> np.ndarray:
        """(H, W, 3) -> (ceil(H / factor), ceil(W / factor), 3)."""
        kernel = gaussian_kernel(self.size, np.eye(2) * self.std**2, shift=(self.factor - 1) / 2)
        return blur(image, kernel)[:: self.factor, :: self.factor]


@dataclass(frozen=True)
class Noise:
    """Normal noise.

    Attributes:
        kind: colour = independent channels, grey = the same in all three, correlated = channels
            with a random covariance.
        level: standard deviation, of 255; of correlated noise, an upper bound of it.
    """

    kind: str
    level: float

    def __call__(self, image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """(H, W, 3) -> (H, W, 3) in [0, 1]."""
        channels = 1 if self.kind == "grey" else 3
        noise = generator.standard_normal((*image.shape[:2], channels), np.float32)
        if self.kind == "correlated":
            noise = noise @ self.mixing(generator).astype(np.float32)
        return (image + noise * np.float32(self.level / 255)).clip(0, 1)

    @staticmethod
    def mixing(generator: np.random.Generator) -> np.ndarray:
        """M (3, 3) such that white noise times M has a random covariance, M^T M.

        That is |U^T D U|, entry by entry, with a random orthogonal U and D uniform in [0, 1] on the
        diagonal; taken so it may have negative eigenvalues, which count as positive (as
        ``numpy.random.multivariate_normal`` has it).
        """
        basis = np.linalg.svd(generator.random((3, 3)))[0]
        wanted = np.abs(basis.T @ np.diag(generator.random(3)) @ basis)
        values, vectors = np.linalg.eigh(wanted)
        return np.asarray(np.sqrt(np.abs(values))[:, None] * vectors.T)


@dataclass(frozen=True)
class Jpeg:
    """Compression as JPEG, with colours at half the resolution.

    Attributes:
        quality: 1 to 95.
    """

    quality: int

    def __call__(self, image: np.ndarray, _generator: np.random.Generator) -> np.ndarray:
        """(H, W, 3) -> (H, W, 3), multiples of 1 / 255."""
        pixels = (image.clip(0, 1) * 255).round().astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=self.quality, subsampling="4:2:0")
        with Image.open(file) as decoded:
            return np.asarray(decoded.convert("RGB")).astype(np.float32) / 255


_NOISE_SHARES = (0.4, 0.4, 0.2)
"""How often noise is colour, grey and correlated."""


@dataclass(frozen=True)
class BlindDegradation:
    """A random chain of steps that shrinks an image ``factor`` times.

    In a random order: ``blurs`` blurs, noise, JPEG (with ``jpeg_prob``), a first shrinking, and,
    some time after it, a second one to the final size. JPEG always comes last once more. With
    ``half_prob`` an image that is to shrink four times is halved before all that.

    A blur is isotropic or not, by half; standard deviations and variances are uniform from 0 to
    ``blur_scale`` times 2 + 0.2 f and 4 + f, with f the factor that is still to go. The first
    shrinking is, with ``free_prob``, by anything from 1 to 2 f, else by f after a matching blur;
    the interpolations, bilinear, bicubic or area, are not anti-aliased.

    Attributes:
        factor: by which both sides shrink.
        blurs: number of blurs.
        isotropic_sizes: sides of kernels of isotropic blurs.
        anisotropic_sizes: those of the others.
        blur_scale: see above.
        noise_levels: smallest and largest standard deviation, whole numbers of 255.
        jpeg_quality: smallest and largest quality.
        jpeg_prob: of the first JPEG.
        free_prob: see above.
        half_prob: see above.

    Raises:
        DataError: an option is out of its range.
    """

    factor: int
    blurs: int
    isotropic_sizes: Sequence[int]
    anisotropic_sizes: Sequence[int]
    blur_scale: float
    noise_levels: tuple[int, int]
    jpeg_quality: tuple[int, int]
    jpeg_prob: float
    free_prob: float
    half_prob: float

    def __post_init__(self) -> None:
        check_factor(self.factor)
        for name in ("jpeg_prob", "free_prob", "half_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise DataError(f"degradation: {name} {getattr(self, name)} is not a probability")
        for name, least in (("noise_levels", 0), ("jpeg_quality", 1)):
            low, high = getattr(self, name)
            if not least <= low <= high:
                raise DataError(f"degradation: {name} {low} to {high} is no range from {least} on")

    def plan(self, height: int, width: int, generator: np.random.Generator) -> list[Step]:
        """The steps for an image of this size, drawn at random; they can be read and repeated."""
        final = (height // self.factor, width // self.factor)
        steps: list[Step] = []
        left = self.factor
        if self.factor == 4 and generator.random() < self.half_prob:
            height, width, left = height // 2, width // 2, 2
            steps.append(self._half((height, width), generator))
        jpeg = [self._jpeg(generator)] if generator.random() < self.jpeg_prob else []
        blurs = [self._blur(left, generator) for _ in range(self.blurs)]
        middle: list[Step] = [*blurs, self._noise(generator), *jpeg]
        first = self._shrink(height, width, left, generator)
        middle += [first, Resize(final, _method(generator))]
        order = list(generator.permutation(len(middle)))
        i, j = order.index(len(middle) - 2), order.index(len(middle) - 1)
        if i > j:  # the second shrinking comes after the first
            order[i], order[j] = order[j], order[i]
        return [*steps, *(middle[k] for k in order), self._jpeg(generator)]

    def __call__(self, image: Tensor, generator: np.random.Generator) -> Tensor:
        """(3, H, W) -> (3, H / factor, W / factor), multiples of 1 / 127.5 in [-1, 1].

        Raises:
            DataError: the image has no three channels, or a side is no multiple of the factor.
        """
        if image.shape[0] != 3:
            raise DataError(f"degradation: JPEG needs RGB, got {image.shape[0]} channels")
        small_size(image, self.factor)
        pixels = ((image.float() + 1) / 2).clamp(0, 1).permute(1, 2, 0).numpy()
        for step in self.plan(pixels.shape[0], pixels.shape[1], generator):
            pixels = step(pixels, generator)
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous() * 2 - 1

    def _half(self, size: tuple[int, int], generator: np.random.Generator) -> Step:
        antialias = generator.random() < 0.5
        return Resize(size, "bicubic" if antialias else _method(generator), antialias)

    def _blur(self, left: int, generator: np.random.Generator) -> Step:
        if generator.random() < 0.5:
            size = int(generator.choice(self.anisotropic_sizes))
            largest = self.blur_scale * (4 + left)
            first, second = (largest * _positive(generator) for _ in range(2))
            return Blur(size, (first, second), math.pi * generator.random())
        size = int(generator.choice(self.isotropic_sizes))
        std = self.blur_scale * (2 + 0.2 * left) * _positive(generator)
        return Blur(size, (std * std, std * std))

    def _shrink(self, height: int, width: int, left: int, generator: np.random.Generator) -> Step:
        if generator.random() < self.free_prob:
            by = generator.uniform(1, 2 * left)
            size = (max(int(height / by), 1), max(int(width / by), 1))
            return Resize(size, _method(generator))
        return Decimate(generator.uniform(0.1, 0.6 * left), left)

    def _noise(self, generator: np.random.Generator) -> Step:
        kind = str(generator.choice(NOISES, p=_NOISE_SHARES))
        low, high = self.noise_levels
        level = int(generator.integers(low, high + 1))
        return Noise(kind, high if kind == "correlated" else level)

    def _jpeg(self, generator: np.random.Generator) -> Step:
        low, high = self.jpeg_quality
        return Jpeg(int(generator.integers(low, high + 1)))


def bsr(factor: int = 4) -> BlindDegradation:
    """The degradation of BSRGAN, without camera noise."""
    return BlindDegradation(
        factor=factor,
        blurs=2,
        isotropic_sizes=range(7, 26, 2),
        anisotropic_sizes=range(7, 26, 2),
        blur_scale=1.0,
        noise_levels=(2, 25),
        jpeg_quality=(30, 95),
        jpeg_prob=0.9,
        free_prob=0.75,
        half_prob=0.25,
    )


def bsr_light(factor: int = 4) -> BlindDegradation:
    """The light variant, with which the released ``bsr_sr`` was trained."""
    return BlindDegradation(
        factor=factor,
        blurs=1,
        isotropic_sizes=range(5, 8),
        anisotropic_sizes=range(5, 15),
        blur_scale=0.25,
        noise_levels=(1, 2),
        jpeg_quality=(80, 95),
        jpeg_prob=0.9,
        free_prob=0.8,
        half_prob=0.25,
    )


def _method(generator: np.random.Generator) -> str:
    return METHODS[int(generator.integers(len(METHODS)))]


def _positive(generator: np.random.Generator) -> float:
    """Uniform in (0, 1]: a Gaussian needs a width."""
    return float(1 - generator.random())
