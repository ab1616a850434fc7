"""Fréchet distance between two sets of features seen as Gaussians (Heusel et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.evaluation.statistics import FeatureStatistics

_CHUNK = 4096
"""Features that are turned into float64 at a time."""
_ACCURACY = 1e-10
"""Relative error that a sum of singular values may have."""


@dataclass(frozen=True)
class Gaussian:
    """Mean and a root of the covariance: what the distance needs, found once for many distances.

    Attributes:
        mean: (D,) float64.
        root: (R, D) with ``root.T @ root`` the covariance, R its rank or more.
    """

    mean: Tensor
    root: Tensor

    @classmethod
    def from_statistics(cls, statistics: FeatureStatistics) -> Gaussian:
        """By the eigenvalues of the covariance; those that are zero up to rounding are left out.

        Raises:
            ValueError: there are fewer than two samples.
        """
        values, vectors = torch.linalg.eigh(statistics.cov)
        # The roots of what rounding leaves of a zero would be larger than rounding errors are.
        kept = values > values.amax() * len(values) * torch.finfo(values.dtype).eps
        return cls(statistics.mean, values[kept].sqrt()[:, None] * vectors[:, kept].T)

    @classmethod
    def from_features(cls, features: Tensor, rows: Tensor | None = None) -> Gaussian:
        """Of features (N, D) of any type, or of some of their rows.

        With no more samples than features the centred samples themselves are the root: nothing of
        size D x D is computed. Else the samples are taken a few thousand at a time.

        Args:
            features: (N, D).
            rows: indices (M,) of those to be taken, each as often as it stands there; None = all.

        Raises:
            ValueError: the shape does not fit, there are fewer than two samples, or a value is not
                finite.
        """
        if features.ndim != 2:
            raise ValueError(f"features {tuple(features.shape)} are not (N, D)")
        if rows is None:
            rows = torch.arange(len(features), device=features.device)
        parts = (features[part.to(features.device)].detach() for part in rows.split(_CHUNK))
        if len(rows) > features.shape[1]:
            statistics = FeatureStatistics(features.shape[1])
            for part in parts:
                statistics.update(part)
            return cls.from_statistics(statistics)
        if len(rows) < 2:
            raise ValueError(f"a covariance needs two samples or more, not {len(rows)}")
        x = torch.cat([part.cpu().double() for part in parts])
        if not x.isfinite().all():
            raise ValueError("features hold NaN or infinite values")
        mean = x.mean(0)
        return cls(mean, (x - mean) / (len(x) - 1) ** 0.5)

    def distance(self, other: Gaussian) -> float:
        r"""Squared Fréchet (2-Wasserstein) distance.

        ``|m_1 - m_2|^2 + tr C_1 + tr C_2 - 2 tr (C_1 C_2)^1/2``. With C = R^T R the last trace is
        the sum of the singular values of ``R_1 R_2^T``: unlike a general matrix square root that
        needs no small multiple of the identity and never turns complex, also where a covariance is
        singular, and unlike roots of eigenvalues it does not lose half of the digits.

        Raises:
            ValueError: the features differ in length.
        """
        if len(self.mean) != len(other.mean):
            lengths = f"length {len(self.mean)}, fake ones {len(other.mean)}"
            raise ValueError(f"real features have {lengths}")
        shared = _sum_of_singular_values(self.root @ other.root.T)
        traces = self.root.square().sum() + other.root.square().sum()
        return max(float((self.mean - other.mean).square().sum() + traces - 2 * shared), 0.0)


def frechet_distance(
    real: FeatureStatistics | Gaussian, fake: FeatureStatistics | Gaussian
) -> float:
    """Squared Fréchet distance, called FID with Inception features; see ``Gaussian.distance``.

    Raises:
        ValueError: the features differ in length, or there are fewer than two samples.
    """
    if real.mean.shape != fake.mean.shape:  # before the work
        raise ValueError(f"real features have length {len(real.mean)}, fake ones {len(fake.mean)}")
    return as_gaussian(real).distance(as_gaussian(fake))


def frechet_from_features(real: Tensor, fake: Tensor) -> float:
    """The same of features (N, D) and (M, D), fast where N and M are small.

    Raises:
        ValueError: shapes do not fit, there are fewer than two samples, or a value is not finite.
    """
    return Gaussian.from_features(real).distance(Gaussian.from_features(fake))


def as_gaussian(statistics: FeatureStatistics | Gaussian) -> Gaussian:
    """The Gaussian of statistics."""
    if isinstance(statistics, Gaussian):
        return statistics
    return Gaussian.from_statistics(statistics)


def _sum_of_singular_values(matrix: Tensor) -> Tensor:
    """Sum of the singular values, (), by the faster of two ways that is accurate enough.

    They are the roots of the eigenvalues of ``M M^T``, which takes a fraction of the time. But each
    eigenvalue has an error in proportion to the largest, which is large beside a small root.
    """
    if matrix.numel() == 0:
        return matrix.sum()
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    values = torch.linalg.eigvalsh(wide @ wide.T)
    error = values[-1] * torch.finfo(values.dtype).eps
    roots = values.clamp(min=0).sqrt()
    if values[0] > error and (error / roots).sum() < _ACCURACY * roots.sum():
        return roots.sum()
    return torch.linalg.svdvals(matrix).sum()
