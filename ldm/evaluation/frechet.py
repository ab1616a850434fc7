"""Fréchet distance between two sets of features seen as Gaussians (Heusel et al. 2017)."""

from __future__ import annotations

import torch
from torch import Tensor

from ldm.evaluation.statistics import FeatureStatistics


def frechet_distance(real: FeatureStatistics, fake: FeatureStatistics) -> float:
    r"""Squared Fréchet (2-Wasserstein) distance, called FID with Inception features.

    ``|m_r - m_f|^2 + tr C_r + tr C_f - 2 tr (C_r^1/2 C_f C_r^1/2)^1/2``. The product is symmetric,
    so its root is a matter of eigenvalues: unlike a general matrix square root it needs no small
    multiple of the identity and never turns complex, also where a covariance is singular.

    Raises:
        ValueError: the features differ in length, or there are fewer than two samples.
    """
    if real.dim != fake.dim:
        raise ValueError(f"real features have length {real.dim}, fake ones {fake.dim}")
    real_cov, fake_cov = real.cov, fake.cov
    root = _symmetric_root(real_cov)
    eigenvalues = torch.linalg.eigvalsh(root @ fake_cov @ root)
    shared = eigenvalues.clamp(min=0).sqrt().sum()
    distance = (real.mean - fake.mean).square().sum()
    distance = distance + real_cov.trace() + fake_cov.trace() - 2 * shared
    return max(float(distance), 0.0)


def _symmetric_root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T
