from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ldm.evaluation.metrics.precision_recall import precision_recall


def normal(n: int, dim: int, seed: int) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


def brute_force(real: Tensor, fake: Tensor, k: int) -> tuple[float, float]:
    def share(queries: Tensor, points: Tensor) -> float:
        radii = [sorted(float((p - q).norm()) for q in points)[k] for p in points]
        inside = [
            any(float((q - p).norm()) <= r for p, r in zip(points, radii, strict=True))
            for q in queries
        ]
        return sum(inside) / len(inside)

    return share(fake, real), share(real, fake)


@pytest.mark.parametrize("tile", [7, 16, 1000])
def test_agrees_with_brute_force(tile: int) -> None:
    real, fake = normal(40, 3, 0), normal(30, 3, 1) * 0.7 + 0.5
    want = brute_force(real.double(), fake.double(), 3)
    assert 0 < want[0] < 1
    assert 0 < want[1] < 1
    assert precision_recall(real, fake, k=3, tile=tile) == pytest.approx(want)


def test_agrees_with_torch_fidelity() -> None:
    prc = pytest.importorskip("torch_fidelity.metric_prc")
    real, fake = normal(300, 8, 0), normal(200, 8, 1) * 0.6
    # torch-fidelity takes (features_1, features_2) as (generated, real).
    want = prc.prc_features_to_metric(fake, real, prc_neighborhood=3, verbose=False)
    got = precision_recall(real, fake)
    assert got.precision == pytest.approx(want["precision"])
    assert got.recall == pytest.approx(want["recall"])


def test_equal_and_disjoint_sets() -> None:
    x = normal(200, 16, 0) + 1000
    assert precision_recall(x, x) == (1.0, 1.0)
    assert precision_recall(x, x + 100) == (0.0, 0.0)


def test_a_collapsed_fake_set_has_high_precision_and_low_recall() -> None:
    real = normal(300, 8, 0)
    fake = real[:1] + 0.01 * normal(300, 8, 1)
    precision, recall = precision_recall(real, fake)
    assert precision == 1.0
    assert recall < 0.05


def test_copies_of_one_point() -> None:
    real = normal(300, 8, 0) + 50
    precision, recall = precision_recall(real, real[7:8].expand(100, 8))
    assert precision == 1.0
    assert recall == pytest.approx(1 / 300)


def test_a_wide_fake_set_has_low_precision_and_high_recall() -> None:
    precision, recall = precision_recall(normal(300, 2, 0), 20 * normal(300, 2, 1))
    assert precision < 0.1
    assert recall > 0.5


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        precision_recall(torch.zeros(9, 2), torch.zeros(9, 3))
    with pytest.raises(ValueError, match="3 features: the neighbour k=3 needs more"):
        precision_recall(torch.zeros(9, 2), torch.zeros(3, 2))
    with pytest.raises(ValueError, match="NaN"):
        precision_recall(torch.zeros(9, 2), torch.full((9, 2), torch.nan))


def test_agrees_with_prdc() -> None:
    """Which leaves out what lies exactly on a ball; between random points nothing does."""
    prdc = pytest.importorskip("prdc")
    real, fake = normal(150, 5, 0), normal(120, 5, 1) * 0.8 + 0.3
    want = prdc.compute_prdc(real.double().numpy(), fake.double().numpy(), nearest_k=3)
    got = precision_recall(real, fake)
    assert got == pytest.approx((want["precision"], want["recall"]), abs=1e-12)
    assert 0 < got.precision < 1


def test_float32_and_float64_agree() -> None:
    real, fake = (x + 100 for x in (normal(200, 64, 0), normal(200, 64, 1) * 0.9))
    assert precision_recall(real, fake) == precision_recall(real.double(), fake.double())


def test_half_of_the_modes_missing() -> None:
    far = 100 * torch.arange(4.0).repeat(100)[:, None]
    precision, recall = precision_recall(normal(400, 3, 0) + far, normal(400, 3, 1) + far % 200)
    assert precision > 0.9
    assert recall == pytest.approx(0.5, abs=0.05)
