"""Mean and covariance of features, gathered batch by batch in float64."""

from __future__ import annotations

import torch
from torch import Tensor


class FeatureStatistics:
    """Streaming mean and covariance (Chan et al. 1983: stable for means far from zero).

    Args:
        dim: length D of a feature vector.
    """

    def __init__(self, dim: int) -> None:
        self.count = 0
        self.mean = torch.zeros(dim, dtype=torch.float64)
        self._scatter = torch.zeros(dim, dim, dtype=torch.float64)

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
        if len(features) == 0:
            return self
        mean = features.mean(0)
        centred = features - mean
        self._add(len(features), mean, centred.T @ centred)
        return self

    def merge(self, other: FeatureStatistics) -> FeatureStatistics:
        """Add all that ``other`` has seen, as if it had been seen here; returns itself."""
        if other.dim != self.dim:
            raise ValueError(f"statistics of {other.dim} and {self.dim} features do not mix")
        if other.count:
            self._add(other.count, other.mean, other._scatter)
        return self

    def _add(self, count: int, mean: Tensor, scatter: Tensor) -> None:
        total = self.count + count
        delta = mean - self.mean
        self._scatter = (
            self._scatter + scatter + torch.outer(delta, delta) * (self.count * count / total)
        )
        self.mean = self.mean + delta * (count / total)
        self.count = total
