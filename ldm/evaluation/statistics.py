"""Mean and covariance of features, gathered batch by batch in float64."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed

from ldm.atomic_write import write_atomically

_SUFFIXES = {"pool": "", "spatial": "_s"}
"""What ADM's files append to ``mu`` and ``sigma``, by name of the feature."""


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
        if not (distributed.is_available() and distributed.is_initialized()):
            return self
        if distributed.get_world_size() == 1:
            return self
        total = FeatureStatistics(self.dim)
        for rank in range(distributed.get_world_size()):
            total.merge(self._broadcast(rank, device))
        self.count, self.mean, self._scatter = total.count, total.mean, total._scatter
        return self

    def _broadcast(self, rank: int, device: torch.device | str) -> FeatureStatistics:
        """The statistics of the process ``rank``."""
        part = self if rank == distributed.get_rank() else FeatureStatistics(self.dim)
        count = torch.tensor(part.count, device=device)
        moments = [part.mean.to(device), part._scatter.to(device)]
        for tensor in (count, *moments):
            distributed.broadcast(tensor, rank)
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
    ``mu_NAME``, ``sigma_NAME``. ``ldm.evaluation.stored_statistics`` reads the file.

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
