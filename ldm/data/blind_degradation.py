"""Blind degradation: blur, shrinking, noise and JPEG in random order (BSRGAN, arXiv 2103.14006).

The paper's BSR model (section 4.4, appendix D.6.1) is trained with the light variant. Numbers are
those of the code that was released with the paper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ldm.data.array_resize import METHODS
from ldm.data.degradation_steps import NOISES, Blur, Decimate, Jpeg, Noise, Resize, Step
from ldm.data.degradations import check_factor, small_size
from ldm.errors import DataError

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
