from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from ldm.evaluation.metrics.fid import FeatureStatistics, frechet_distance
from ldm.evaluation.metrics.fid_bias import bootstrap_interval, frechet_by_size, frechet_infinity

DIM = 6
REAL = FeatureStatistics.from_moments(torch.zeros(DIM), torch.eye(DIM), 1_000_000)
SHIFT = 0.3


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fakes(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, DIM, generator=generator(seed)) + SHIFT


def distance(x: Tensor) -> float:
    return frechet_distance(REAL, FeatureStatistics(DIM).update(x))


def test_the_bias_grows_as_the_sets_get_smaller() -> None:
    found = frechet_by_size(REAL, fakes(1000), [20, 100, 1000], 20, generator())
    assert [item.size for item in found] == [20, 100, 1000]
    assert found[0].mean > found[1].mean + found[1].std > found[2].mean
    assert found[0].std > found[1].std > found[2].std == 0
    assert found[2].mean == pytest.approx(distance(fakes(1000)), rel=1e-9)


def test_the_same_generator_draws_the_same_subsets() -> None:
    first, second = (frechet_by_size(REAL, fakes(50), [10], 3, generator(seed)) for seed in (4, 4))
    assert first == second


def test_the_limit_of_the_real_distribution_is_zero() -> None:
    errors = []
    for seed in range(10):
        x = fakes(600, seed) - SHIFT
        limit = frechet_infinity(REAL, x, generator(seed))
        errors.append((limit.value, limit.distances[-1]))
        assert limit.distances[-1] == pytest.approx(distance(x), rel=1e-9)
    of_limits, of_distances = np.array(errors).T
    deviation = of_limits.std() / len(of_limits) ** 0.5
    assert abs(of_limits.mean()) < 3 * deviation  # no bias that could be seen
    assert of_distances.mean() > 3 * deviation


def test_the_limit_is_the_intercept_of_least_squares() -> None:
    limit = frechet_infinity(REAL, fakes(300), generator(), points=7, smallest=50)
    assert limit.sizes == tuple(np.linspace(50, 300, 7).astype(int))
    x = np.stack([1 / np.array(limit.sizes), np.ones(7)], axis=1)
    solution, residual, *_ = np.linalg.lstsq(x, np.array(limit.distances), rcond=None)
    assert limit.value == pytest.approx(solution[1], rel=1e-9)
    error = (residual[0] / (7 - 2) * np.linalg.inv(x.T @ x)[1, 1]) ** 0.5
    assert limit.standard_error == pytest.approx(error, rel=1e-6)


def test_the_interval_holds_what_other_sets_of_this_size_give() -> None:
    """The expected distance at this N lies within nine out of ten 90 % intervals."""
    n, sets = 80, 60
    expected = np.mean([distance(fakes(n, 1000 + seed)) for seed in range(300)])
    hits = 0
    for seed in range(sets):
        found = bootstrap_interval(REAL, fakes(n, seed), 50, generator(seed), level=0.9)
        assert found.low < found.value < found.high
        hits += found.low <= expected <= found.high
    assert 0.78 * sets <= hits <= sets


def test_the_interval_shrinks_with_the_samples_and_the_level() -> None:
    def width(n: int, level: float) -> float:
        found = bootstrap_interval(REAL, fakes(n), 40, generator(), level)
        return found.high - found.low

    assert width(50, 0.9) > 2 * width(800, 0.9)
    assert width(50, 0.9) > width(50, 0.5) > 0


def test_equal_samples_leave_no_doubt() -> None:
    found = bootstrap_interval(REAL, fakes(1).expand(30, DIM), 5, generator())
    assert found.low == pytest.approx(found.value) == found.high
    assert found.std == pytest.approx(0, abs=1e-9)


def test_bad_input_is_refused() -> None:
    x = fakes(30)
    with pytest.raises(ValueError, match="2 to 30"):
        frechet_by_size(REAL, x, [31], 1, generator())
    with pytest.raises(ValueError, match="20 samples"):
        frechet_infinity(REAL, x[:19], generator())
    with pytest.raises(ValueError, match="of 16 to 30"):
        frechet_infinity(REAL, x, generator(), smallest=16)
    with pytest.raises(ValueError, match="level 95"):
        bootstrap_interval(REAL, x, 9, generator(), 95)
