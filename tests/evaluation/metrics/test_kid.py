from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
import torch
from torch import Tensor

from ldm.evaluation.metrics.kid import kernel_distance


def normal(n: int, dim: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dim, generator=generator, dtype=torch.float64)


def test_equals_torch_fidelity() -> None:
    kid = pytest.importorskip("torch_fidelity.metric_kid")
    real, fake = normal(300, 16, 0), normal(250, 16, 1) * 0.8 + 0.3
    # torch-fidelity takes (features_1, features_2) as (generated, real).
    want = kid.kid_features_to_metric(
        fake, real, kid_subsets=7, kid_subset_size=100, rng_seed=2020, verbose=False
    )
    got = kernel_distance(real, fake, subsets=7, size=100)
    assert got.mean == pytest.approx(want["kernel_inception_distance_mean"], abs=1e-12)
    assert got.std == pytest.approx(want["kernel_inception_distance_std"], abs=1e-12)
    assert got.mean > 0.01


def test_equals_clean_fid_on_whole_sets() -> None:
    """Its subsets are others (numpy's global state); whole sets leave nothing to chance."""
    fid = pytest.importorskip("cleanfid.fid")
    real, fake = normal(90, 16, 0), normal(90, 16, 1) * 1.2
    want = fid.kernel_distance(fake.numpy(), real.numpy(), num_subsets=1)
    got = kernel_distance(real, fake, subsets=3, size=90)
    assert got.mean == pytest.approx(want, abs=1e-12)
    assert got.std == pytest.approx(0, abs=1e-12)


def test_the_definition() -> None:
    x, y = normal(5, 3, 0), normal(5, 3, 1)

    def kernel(a: Tensor, b: Tensor) -> float:
        return float((a @ b / 3 + 1) ** 3)

    want = np.mean([kernel(a, b) for a, b in permutations(x, 2)])
    want += np.mean([kernel(a, b) for a, b in permutations(y, 2)])
    want -= 2 * np.mean([kernel(a, b) for a, b in product(x, y)])
    assert kernel_distance(x, y, subsets=2, size=5).mean == pytest.approx(want, rel=1e-10)


def test_equal_distributions_are_around_zero_at_any_size() -> None:
    """Unbiased: the mean is within three of its standard errors of 0."""
    pairs = [
        kernel_distance(normal(20, 4, 2 * k), normal(20, 4, 2 * k + 1), 1, 20) for k in range(200)
    ]
    means = np.array([mean for mean, _ in pairs])
    assert abs(means.mean()) < 3 * means.std() / len(means) ** 0.5
    assert (means < 0).any()


def test_float32_and_float64_agree() -> None:
    real, fake = normal(100, 8, 0).float(), normal(100, 8, 1).float()
    assert kernel_distance(real, fake, 2, 50) == kernel_distance(
        real.double(), fake.double(), 2, 50
    )


def test_bad_input_is_refused() -> None:
    x = torch.zeros(9, 2)
    with pytest.raises(ValueError, match="do not fit"):
        kernel_distance(x, torch.zeros(9, 3), size=4)
    with pytest.raises(ValueError, match="10 out of 9 real and 9 fake"):
        kernel_distance(x, x, size=10)
    with pytest.raises(ValueError, match="NaN"):
        kernel_distance(x, x / 0, size=4)
