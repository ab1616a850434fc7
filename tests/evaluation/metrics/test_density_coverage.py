from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ldm.evaluation.metrics.precision_recall import density_coverage


def normal(n: int, dim: int, seed: int) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("tile", [16, 37, 1000])
def test_equals_prdc(tile: int) -> None:
    prdc = pytest.importorskip("prdc")
    real, fake = normal(150, 5, 0), normal(120, 5, 1) * 0.8 + 0.3
    want = prdc.compute_prdc(real.double().numpy(), fake.double().numpy(), nearest_k=5)
    density, coverage = density_coverage(real, fake, tile=tile)
    assert density == pytest.approx(want["density"], abs=1e-12)
    assert coverage == pytest.approx(want["coverage"], abs=1e-12)
    assert 0 < coverage < 1


def test_expected_values_of_equal_distributions() -> None:
    """Naeem et al. 2020, section 3.3, whatever the distribution."""
    n, m, k = 200, 300, 5
    want = 1.0
    for i in range(1, k + 1):
        want *= (n - i) / (n + m - i)
    found = [density_coverage(normal(n, 2, s), normal(m, 2, 1000 + s)) for s in range(20)]
    densities, coverages = torch.tensor(found, dtype=torch.float64).T
    assert float(densities.mean()) == pytest.approx(1, abs=0.04)
    assert float(coverages.mean()) == pytest.approx(1 - want, abs=0.01)


def test_a_collapsed_fake_set_is_dense_and_covers_little() -> None:
    real = normal(300, 8, 0)
    density, coverage = density_coverage(real, real.mean(0) + 0.01 * normal(300, 8, 1))
    assert density > 1
    assert coverage < 0.3
    density, coverage = density_coverage(real, real[:1].expand(300, 8))
    assert coverage < 0.1


def test_half_of_the_modes_missing_halves_the_coverage() -> None:
    far = 100 * torch.arange(4.0).repeat(100)[:, None]
    real, fake = normal(400, 3, 0) + far, normal(400, 3, 1) + far % 200
    density, coverage = density_coverage(real, fake)
    assert density == pytest.approx(1, abs=0.1)  # those that there are lie well
    assert coverage == pytest.approx(0.5, abs=0.01)


def test_fakes_far_off_neither_count_nor_spoil() -> None:
    x = normal(100, 4, 0)
    assert density_coverage(x, x + 100) == (0.0, 0.0)
    near = normal(50, 4, 1)
    alone, mixed = (density_coverage(x, y) for y in (near, torch.cat([near, near + 100])))
    assert mixed.coverage == alone.coverage
    assert mixed.density == alone.density / 2


def test_a_real_copy_is_covered_by_itself() -> None:
    x = normal(60, 4, 0) + 1000
    assert density_coverage(x, x).coverage == 1.0


def test_few_fakes_are_enough() -> None:
    assert density_coverage(normal(30, 2, 0), normal(30, 2, 0)[:1]).coverage > 0


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        density_coverage(torch.zeros(9, 2), torch.zeros(9, 3))
    with pytest.raises(ValueError, match="5 features: the neighbour k=5 needs more"):
        density_coverage(torch.zeros(5, 2), torch.zeros(9, 2))
    with pytest.raises(ValueError, match="0 fake"):
        density_coverage(torch.zeros(9, 2), torch.zeros(0, 2))
    with pytest.raises(ValueError, match="NaN"):
        density_coverage(torch.zeros(9, 2), torch.full((9, 2), torch.inf))
