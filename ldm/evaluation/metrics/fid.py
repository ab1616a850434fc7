"""Fréchet distance between two sets of features seen as Gaussians (Heusel et al. 2017).

``FeatureStatistics`` gathers mean and covariance batch by batch in float64, ``frechet_distance``
compares two of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldm.distributed import broadcast, rank_and_count
from ldm.files import write_atomically

_SUFFIXES = {"pool": "", "spatial": "_s"}
"""What ADM's files append to ``mu`` and ``sigma``, by name of the feature."""
_CHUNK = 4096
"""Features that are turned into float64 at a time."""
_ACCURACY = 1e-10
"""Relative error that a sum of singular values may have."""


class FeatureStatistics:
    """Streaming mean and covariance (Chan et al. 1983: stable for means far from zero).

    Args:
        dim: length D of a feature vector.

    Attributes:
        count: samples seen.
        mean: (D,) float64 on the CPU.
    """

    def __init__(self, dim: int) -> None:
        self.count = 0
        self.mean = torch.zeros(dim, dtype=torch.float64, device="cpu")
        self._scatter = torch.zeros(dim, dim, dtype=torch.float64, device="cpu")

    @classmethod
    def from_moments(cls, mean: Tensor, cov: Tensor, count: int) -> FeatureStatistics:
        """Statistics that someone else gathered.

        Args:
            mean: (D,).
            cov: unbiased covariance (D, D).
            count: of how many samples.

        Raises:
            ValueError: the shapes do not fit, a value is not finite, or the count is below two.
        """
        mean, cov = mean.detach().cpu().double(), cov.detach().cpu().double()
        if mean.ndim != 1 or cov.shape != (len(mean), len(mean)):
            shapes = f"{tuple(mean.shape)} and covariance {tuple(cov.shape)}"
            raise ValueError(f"mean {shapes} are not (D,) and (D, D)")
        if not mean.isfinite().all() or not cov.isfinite().all():
            raise ValueError("mean or covariance hold NaN or infinite values")
        if count < 2:
            raise ValueError(f"a covariance needs two samples or more, not {count}")
        statistics = cls(0)
        statistics.count, statistics.mean = count, mean
        statistics._scatter = cov * (count - 1)
        return statistics

    @property
    def dim(self) -> int:
        """Length of a feature vector."""
        return len(self.mean)

    @property
    def cov(self) -> Tensor:
        """Unbiased covariance (D, D).

        Raises:
            ValueError: fewer than two samples were seen.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs two samples or more, not {self.count}")
        return self._scatter / (self.count - 1)

    def update(self, features: Tensor) -> FeatureStatistics:
        """Add features (B, D); returns itself.

        Raises:
            ValueError: the shape does not fit, or a value is not finite.
        """
        if features.ndim != 2 or features.shape[1] != self.dim:
            raise ValueError(f"features {tuple(features.shape)} are not (B, {self.dim})")
        features = features.detach().cpu().double()
        if not features.isfinite().all():
            raise ValueError("features hold NaN or infinite values")
        if len(features):
            mean = features.mean(0)
            self._shift(len(features), mean)
            centred = features - mean
            self._scatter.addmm_(centred.T, centred)
        return self

    def merge(self, other: FeatureStatistics) -> FeatureStatistics:
        """Add all that ``other`` has seen, as if it had been seen here; returns itself.

        Raises:
            ValueError: the features differ in length.
        """
        if other.dim != self.dim:
            raise ValueError(f"statistics of {other.dim} and {self.dim} features do not mix")
        if other.count:
            self._shift(other.count, other.mean)
            self._scatter += other._scatter
        return self

    def all_reduce(self, device: torch.device | str = "cpu") -> FeatureStatistics:
        """Make them, in every process, the statistics of what all processes saw; returns itself.

        The parts come one after the other and are added in the order of the ranks: the result has
        the same bits everywhere, and one further (D, D) matrix is all the memory it takes. With one
        process, or without ``torch.distributed``, nothing happens.

        Args:
            device: by which the processes talk: the process's own accelerator with NCCL.
        """
        _, count = rank_and_count()
        if count == 1:
            return self
        total = FeatureStatistics(self.dim)
        for rank in range(count):
            total.merge(self._broadcast(rank, device))
        self.count, self.mean, self._scatter = total.count, total.mean, total._scatter
        return self

    def _broadcast(self, rank: int, device: torch.device | str) -> FeatureStatistics:
        """The statistics of the process ``rank``."""
        part = self if rank == rank_and_count()[0] else FeatureStatistics(self.dim)
        count = torch.tensor(part.count, device=device)
        moments = [part.mean.to(device), part._scatter.to(device)]
        for tensor in (count, *moments):
            broadcast(tensor, rank)
        received = FeatureStatistics(0)
        received.count = int(count)
        received.mean, received._scatter = (moment.cpu() for moment in moments)
        return received

    def _shift(self, count: int, mean: Tensor) -> None:
        """Make room for ``count`` samples around ``mean``, whose scatter is yet to be added."""
        total = self.count + count
        delta = mean - self.mean
        self._scatter.addr_(delta, delta, alpha=self.count * count / total)
        self.mean = self.mean + delta * (count / total)
        self.count = total


def save_statistics(
    file: str | Path, statistics: Mapping[str, FeatureStatistics], about: Mapping[str, str]
) -> None:
    """Write statistics as npz, complete or not at all.

    ADM's evaluator and clean-fid find what they look for: ``mu``, ``sigma`` of the feature "pool",
    and the former ``mu_s``, ``sigma_s`` of "spatial". Those of any other feature NAME are
    ``mu_NAME``, ``sigma_NAME``. ``ldm.evaluation.sources.statistics`` reads the file.

    Args:
        file: to be written.
        statistics: by name of the feature, all of the same images.
        about: further entries: ``network``, ``weights_sha256``, ``resize``, ``source_sha256``.

    Raises:
        ValueError: the statistics are of different numbers of images, or of fewer than two.
    """
    counts = {part.count for part in statistics.values()}
    if len(counts) != 1:
        raise ValueError(f"statistics of {sorted(counts)} images are not of the same images")
    arrays: dict[str, Any] = {"count": np.array(counts.pop())}
    arrays |= {name: np.array(text) for name, text in about.items()}
    for name, part in statistics.items():
        suffix = _SUFFIXES.get(name, f"_{name}")
        arrays |= {f"mu{suffix}": part.mean.numpy(), f"sigma{suffix}": part.cov.numpy()}
    write_atomically(file, lambda stream: np.savez(stream, **arrays))


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
