from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from ldm.evaluation.frechet import frechet_distance
from ldm.evaluation.statistics import FeatureStatistics


def statistics(x: Tensor) -> FeatureStatistics:
    return FeatureStatistics(x.shape[1]).update(x)


def samples(n: int, dim: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    return torch.randn(n, dim, generator=generator, dtype=torch.float64) @ mixing + seed


def test_agrees_with_a_general_matrix_root() -> None:
    real, fake = statistics(samples(500, 16, 0)), statistics(samples(400, 16, 1))
    root = scipy.linalg.sqrtm(real.cov.numpy() @ fake.cov.numpy())
    want = (
        float((real.mean - fake.mean).square().sum())
        + np.trace(real.cov.numpy())
        + np.trace(fake.cov.numpy())
        - 2 * np.trace(root).real
    )
    assert frechet_distance(real, fake) == pytest.approx(want, rel=1e-9)


def test_equal_sets_are_at_zero() -> None:
    x = samples(300, 12, 0)
    scale = float(statistics(x).cov.trace())
    assert frechet_distance(statistics(x), statistics(x.flip(0))) < 1e-9 * scale


def test_fewer_samples_than_features() -> None:
    x = samples(10, 40, 0)
    scale = float(statistics(x).cov.trace())
    assert frechet_distance(statistics(x), statistics(x)) < 1e-6 * scale
    shifted = frechet_distance(statistics(x), statistics(x + 2))
    assert shifted == pytest.approx(4 * 40, rel=1e-4)


def test_closed_forms() -> None:
    x = samples(1000, 5, 0)
    real = statistics(x)
    trace = float(real.cov.trace())
    assert frechet_distance(real, statistics(x + 3)) == pytest.approx(9 * 5)
    centre = x.mean(0)
    doubled = statistics((x - centre) * 2 + centre)
    assert frechet_distance(real, doubled) == pytest.approx(trace)
    collapsed = statistics(centre.expand(10, 5))
    assert frechet_distance(real, collapsed) == pytest.approx(trace)


def test_symmetric() -> None:
    a, b = statistics(samples(100, 6, 0)), statistics(samples(100, 6, 1))
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="length 3, fake ones 4"):
        frechet_distance(statistics(torch.randn(5, 3)), statistics(torch.randn(5, 4)))
