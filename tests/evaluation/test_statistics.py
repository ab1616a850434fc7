from __future__ import annotations

import numpy as np
import pytest
import torch

from ldm.evaluation.statistics import FeatureStatistics


def test_batches_of_any_size_give_numpys_mean_and_covariance() -> None:
    x = torch.randn(101, 7, dtype=torch.float64) * 3 + 5
    statistics = FeatureStatistics(7)
    for batch in x.split([1, 0, 50, 49, 1]):
        statistics.update(batch)
    assert statistics.count == 101
    assert np.allclose(statistics.mean, x.numpy().mean(0), rtol=1e-12)
    assert np.allclose(statistics.cov, np.cov(x.numpy(), rowvar=False), rtol=1e-10)


def test_merging_equals_seeing_all() -> None:
    x = torch.randn(60, 4, dtype=torch.float64)
    whole = FeatureStatistics(4).update(x)
    merged = FeatureStatistics(4).update(x[:13]).merge(FeatureStatistics(4).update(x[13:]))
    merged.merge(FeatureStatistics(4))
    assert merged.count == 60
    assert torch.allclose(merged.mean, whole.mean, rtol=1e-12)
    assert torch.allclose(merged.cov, whole.cov, rtol=1e-10)


def test_a_large_mean_does_not_eat_the_covariance() -> None:
    x = torch.randn(1000, 2, dtype=torch.float64)
    near, far = FeatureStatistics(2).update(x), FeatureStatistics(2)
    for batch in (x + 1e8).split(10):
        far.update(batch)
    assert torch.allclose(near.cov, far.cov, atol=1e-6)


def test_half_precision_features_are_summed_in_float64() -> None:
    statistics = FeatureStatistics(1)
    for _ in range(100):
        statistics.update(torch.full((100, 1), 0.1, dtype=torch.float16))
    assert statistics.mean.dtype == torch.float64
    assert float(statistics.mean) == pytest.approx(float(torch.tensor(0.1, dtype=torch.float16)))


def test_bad_input_is_refused() -> None:
    statistics = FeatureStatistics(3)
    with pytest.raises(ValueError, match=r"\(2, 4\)"):
        statistics.update(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="NaN"):
        statistics.update(torch.full((2, 3), torch.nan))
    with pytest.raises(ValueError, match="two samples"):
        _ = statistics.update(torch.zeros(1, 3)).cov
    with pytest.raises(ValueError, match="do not mix"):
        statistics.merge(FeatureStatistics(4))
