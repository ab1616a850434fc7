from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ldm.evaluation.metrics.fid import FeatureStatistics, save_statistics
from ldm.evaluation.sources.statistics import read_statistics


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


def test_batches_of_1_and_64_agree() -> None:
    x = torch.randn(500, 20, generator=torch.Generator().manual_seed(0)) * 3 + 5
    one, many = FeatureStatistics(20), FeatureStatistics(20)
    for size, statistics in ((1, one), (64, many)):
        for batch in x.split(size):
            statistics.update(batch)
    torch.testing.assert_close(one.mean, many.mean, rtol=1e-10, atol=0)
    torch.testing.assert_close(one.cov, many.cov, rtol=1e-10, atol=1e-10)


FEATURES = torch.randn(101, 6, generator=torch.Generator().manual_seed(0)) * 3 + 5
PROCESS = """
import sys
import torch
import torch.distributed as dist
from ldm.evaluation.metrics.fid import FeatureStatistics
from tests.evaluation.metrics.test_fid import FEATURES

rank = int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}/meet", rank=rank, world_size=2)
got = FeatureStatistics(6).update(FEATURES[rank::2])
assert got.all_reduce() is got
got.update(FEATURES[:0])
torch.save([torch.tensor(got.count), got.mean, got.cov], f"{sys.argv[1]}/{rank}.pt")
dist.destroy_process_group()
"""


def test_two_processes_agree_with_one(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROCESS, str(tmp_path)]
    root = Path(__file__).parents[3]
    processes = [subprocess.Popen([*command, str(rank)], cwd=root) for rank in range(2)]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    want = FeatureStatistics(6).update(FEATURES)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert all(map(torch.equal, first, second))  # the same bits everywhere
    assert int(first[0]) == 101
    torch.testing.assert_close(first[1], want.mean, rtol=1e-10, atol=0)
    torch.testing.assert_close(first[2], want.cov, rtol=1e-10, atol=1e-10)


def test_alone_nothing_is_exchanged() -> None:
    statistics = FeatureStatistics(6).update(FEATURES)
    before = statistics.cov
    assert torch.equal(statistics.all_reduce().cov, before)


def test_moments_from_elsewhere() -> None:
    seen = FeatureStatistics(6).update(FEATURES)
    again = FeatureStatistics.from_moments(seen.mean, seen.cov, seen.count)
    again.update(FEATURES[:9])
    torch.testing.assert_close(again.cov, seen.update(FEATURES[:9]).cov)
    for mean, cov, count, message in (
        (torch.zeros(2), torch.zeros(3, 3), 9, r"\(2,\) and covariance \(3, 3\)"),
        (torch.zeros(2), torch.full((2, 2), torch.nan), 9, "NaN"),
        (torch.zeros(2), torch.eye(2), 1, "two samples"),
    ):
        with pytest.raises(ValueError, match=message):
            FeatureStatistics.from_moments(mean, cov, count)


def test_a_saved_file_is_read_back(tmp_path: Path) -> None:
    pool, spatial = FeatureStatistics(6).update(FEATURES), FeatureStatistics(4)
    spatial.update(FEATURES[:, :4] ** 2)
    about = {"network": "mine", "weights_sha256": "ab12", "resize": "clean", "source_sha256": "f"}
    file = tmp_path / "statistics.npz"
    save_statistics(file, {"pool": pool, "spatial": spatial}, about)
    stored = read_statistics(str(file))
    assert (stored.network, stored.weights_sha256, stored.info.count) == ("mine", "ab12", 101)
    for name, want in (("pool", pool), ("spatial", spatial)):
        torch.testing.assert_close(stored.statistics[name].mean, want.mean, rtol=0, atol=0)
        torch.testing.assert_close(stored.statistics[name].cov, want.cov)
    with np.load(file, allow_pickle=False) as arrays:  # as ADM's evaluator and clean-fid do
        assert np.allclose(arrays["mu"], FEATURES.double().mean(0))
        assert np.allclose(arrays["sigma"], np.cov(FEATURES.double(), rowvar=False))
        assert np.array_equal(arrays["mu_s"], spatial.mean)


def test_statistics_of_different_images_do_not_share_a_file(tmp_path: Path) -> None:
    parts = {"pool": FeatureStatistics(6).update(FEATURES), "spatial": FeatureStatistics(4)}
    with pytest.raises(ValueError, match="0, 101"):
        save_statistics(tmp_path / "statistics.npz", parts, {})
    assert not list(tmp_path.iterdir())


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
