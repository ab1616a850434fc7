from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from ldm.evaluation.metrics.fid import (
    FeatureStatistics,
    Gaussian,
    frechet_distance,
    frechet_from_features,
)


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


def test_equals_torch_fidelity() -> None:
    fid = pytest.importorskip("torch_fidelity.metric_fid")
    real, fake = samples(500, 64, 0), samples(400, 64, 1)
    parts = [fid.fid_features_to_statistics(x) for x in (fake, real)]
    want = fid.fid_statistics_to_metric(*parts, verbose=False)["frechet_inception_distance"]
    assert frechet_distance(statistics(real), statistics(fake)) == pytest.approx(want, rel=1e-9)
    assert frechet_from_features(real, fake) == pytest.approx(want, rel=1e-9)


def test_equals_clean_fid() -> None:
    fid = pytest.importorskip("cleanfid.fid")
    real, fake = statistics(samples(500, 64, 0)), statistics(samples(400, 64, 1))
    moments = (part.numpy() for x in (real, fake) for part in (x.mean, x.cov))
    want = fid.frechet_distance(*moments)
    assert frechet_distance(real, fake) == pytest.approx(want, rel=1e-6)


def features(n: int, dim: int, seed: int) -> Tensor:
    """float32, positive and with a steep spectrum, like pooled features of Inception."""
    generator = torch.Generator().manual_seed(seed)
    spectrum = torch.logspace(0, -3, dim)
    return (torch.randn(n, dim, generator=generator) * spectrum).exp().float()


@pytest.mark.parametrize("n", [2, 10, 39, 40, 41, 300])
def test_equal_sets_are_at_zero(n: int) -> None:
    x = features(n, 40, 0)
    assert frechet_distance(statistics(x), statistics(x.flip(0))) < 1e-6
    assert frechet_from_features(x, x.flip(0)) < 1e-6


def test_fewer_samples_than_features() -> None:
    """By way of D x D covariances, and by way of the samples; without complex numbers."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for n, m in ((10, 15), (10, 500), (500, 10)):
            real, fake = features(n, 40, 0), features(m, 40, 1) * 1.5
            by_samples = frechet_from_features(real, fake)
            by_cov = frechet_distance(statistics(real), statistics(fake))
            assert by_samples == pytest.approx(by_cov, rel=1e-9)
            got = frechet_from_features(real, real + 2)
            assert got == pytest.approx(4 * 40, rel=1e-6)


def test_large_features_of_few_samples() -> None:
    """As many features as Inception has; the general root agrees as far as it goes."""
    real, fake = samples(40, 2048, 0), samples(50, 2048, 1)
    a, b = (x - x.mean(0) for x in (real, fake))
    shared = np.linalg.eigvals((a @ b.T @ b @ a.T).numpy() / (39 * 49)).real.clip(0)
    want = (real.mean(0) - fake.mean(0)).square().sum() - 2 * np.sqrt(shared).sum()
    want += a.square().sum() / 39 + b.square().sum() / 49
    assert frechet_from_features(real, fake) == pytest.approx(float(want), rel=1e-9)


@pytest.mark.parametrize("smallest", [1e-1, 1e-3, 1e-5, 1e-7])
def test_both_ways_to_the_singular_values_are_accurate(smallest: float) -> None:
    """Covariances that commute: the distance is that of the standard deviations."""
    n, dim = 500, 64
    basis = torch.linalg.qr(samples(n, dim, 0) - samples(n, dim, 0).mean(0)).Q  # covariance 1 / 499
    a = torch.logspace(0, float(np.log10(smallest)), dim, dtype=torch.float64)
    b = a * torch.linspace(0.99, 1.01, dim, dtype=torch.float64)
    want = float((a - b).square().sum()) / (n - 1)
    got = frechet_distance(statistics(basis * a), statistics(basis * b))
    assert got == pytest.approx(want, rel=1e-9)


def test_rows_may_repeat() -> None:
    x = features(60, 8, 0)
    rows = torch.tensor([5, 5, 7, 9, 9, 9] * 3)
    for count in (6, 18):  # fewer rows than features, and more
        got = Gaussian.from_features(x, rows[:count])
        want = Gaussian.from_statistics(statistics(x[rows[:count]].double()))
        assert got.distance(want) < 1e-9
        cov = torch.from_numpy(np.cov(x[rows[:count]].double(), rowvar=False))
        torch.testing.assert_close(got.root.T @ got.root, cov)


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
    with pytest.raises(ValueError, match="length 3, fake ones 4"):
        frechet_from_features(torch.randn(5, 3), torch.randn(5, 4))


def test_bad_features_are_refused() -> None:
    x = torch.randn(5, 9)
    for bad, message in ((x[:1], "two samples"), (x[0], r"\(9,\)"), (x * torch.nan, "NaN")):
        with pytest.raises(ValueError, match=message):
            frechet_from_features(x, bad)
