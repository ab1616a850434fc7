"""The steps of blind degradations: blur, shrinking, noise, JPEG.

A step is called as ``step(image, generator)`` with float32 (H, W, 3) in [0, 1] and returns the
same, perhaps smaller.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from PIL import Image

from ldm.data.array_resize import resize
from ldm.data.blur import blur, covariance, gaussian_kernel

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
    """Resizing; see ``ldm.data.array_resize``.

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
