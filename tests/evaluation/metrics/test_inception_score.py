from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ldm.evaluation.metrics.inception_score import InceptionScore


def logits(n: int, classes: int = 20, scale: float = 3.0) -> Tensor:
    return torch.randn(n, classes, generator=torch.Generator().manual_seed(0)) * scale


def score(values: Tensor, sizes: list[int], splits: int = 10) -> tuple[float, float]:
    metric = InceptionScore(len(values), splits)
    for batch in values.split(sizes):
        metric.update(batch)
    return metric.compute()


@pytest.mark.parametrize("n", [10, 100, 137])
def test_equals_torch_fidelity(n: int) -> None:
    metric = pytest.importorskip("torch_fidelity.metric_isc")
    want = metric.isc_features_to_metric(logits(n), 10, True, 2020)
    got = score(logits(n), [n])
    assert got[0] == pytest.approx(want["inception_score_mean"], rel=1e-9)
    assert got[1] == pytest.approx(want["inception_score_std"], rel=1e-6, abs=1e-9)


def test_equals_torchmetrics_with_the_same_shuffle(monkeypatch: pytest.MonkeyPatch) -> None:
    image = pytest.importorskip("torchmetrics.image.inception")
    metric = image.InceptionScore(feature=nn.Identity(), splits=10)
    metric.update(logits(200).double())
    order = torch.from_numpy(np.random.RandomState(2020).permutation(200))
    monkeypatch.setattr(torch, "randperm", lambda *_: order)
    mean, std = metric.compute()
    got = score(logits(200), [200])
    assert got[0] == pytest.approx(float(mean), rel=1e-6)
    assert got[1] == pytest.approx(float(std) * (9 / 10) ** 0.5, rel=1e-5)  # divisor N, not N - 1


def test_closed_forms() -> None:
    certain = torch.eye(5).repeat(20, 1) * 1000
    assert score(certain, [100], splits=1) == pytest.approx((5.0, 0.0))
    assert score(torch.zeros(30, 7), [30]) == pytest.approx((1.0, 0.0))


def test_batches_do_not_matter() -> None:
    values = logits(53)
    assert score(values, [1] * 53) == pytest.approx(score(values, [50, 3]), rel=1e-12)


def test_wrong_input() -> None:
    with pytest.raises(ValueError, match="10 images or more"):
        InceptionScore(9)
    metric = InceptionScore(12).update(logits(10))
    with pytest.raises(ValueError, match="10 of 12"):
        metric.compute()
    with pytest.raises(ValueError, match="more images than the 12"):
        metric.update(logits(3))
    with pytest.raises(ValueError, match="NaN"):
        metric.update(logits(1) * torch.nan)
