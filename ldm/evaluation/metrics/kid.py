"""Kernel distance between two sets of features, called KID (Binkowski et al. 2018)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ldm.evaluation.metrics.precision_recall import all_finite


class MeanDistance(NamedTuple):
    """Mean and standard deviation over the subsets (divided by their number, as is customary)."""

    mean: float
    std: float


def kernel_distance(
    real: Tensor, fake: Tensor, subsets: int = 100, size: int = 1000, seed: int = 2020
) -> MeanDistance:
    """Unbiased squared maximum mean discrepancy with the kernel ``(x.y / D + 1)^3``.

    It has no bias at small N, unlike the Fréchet distance; for equal distributions it is around 0
    and may be below. The mean is over random pairs of subsets, which are those of torch-fidelity.

    Args:
        real: features (N, D).
        fake: features (M, D).
        subsets: pairs of subsets.
        size: samples of a subset, at most the smaller of N and M.
        seed: of the subsets; 2020 is torch-fidelity's.

    Raises:
        ValueError: shapes or sizes do not fit, or a value is not finite.
    """
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1]:
        raise ValueError(f"real {tuple(real.shape)} and fake {tuple(fake.shape)} do not fit")
    if subsets < 1 or not 2 <= size <= min(len(real), len(fake)):
        raise ValueError(
            f"{subsets} subsets of {size} out of {len(real)} real and {len(fake)} fake features: "
            "at least one subset, of two or more of them"
        )
    if not (all_finite(real) and all_finite(fake)):
        raise ValueError("features hold NaN or infinite values")
    random = np.random.RandomState(seed)
    distances = np.empty(subsets)
    for k in range(subsets):
        y = _choose(fake, size, random)  # torch-fidelity draws the fake ones first
        x = _choose(real, size, random)
        distances[k] = _squared_mmd(x, y)
    return MeanDistance(float(distances.mean()), float(distances.std()))


def _choose(features: Tensor, size: int, random: np.random.RandomState) -> Tensor:
    rows = torch.from_numpy(random.choice(len(features), size, replace=False))
    return features[rows.to(features.device)].double()


def _squared_mmd(x: Tensor, y: Tensor) -> float:
    """Of as many x as y, (m, D): pairs of a sample with itself are left out."""
    m = len(x)
    xx, yy, xy = _kernel(x, x), _kernel(y, y), _kernel(x, y)
    within = xx.sum() - xx.trace() + yy.sum() - yy.trace()
    return float(within / (m * (m - 1)) - 2 * xy.mean())


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3
