from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ldm.errors import UserError
from ldm.evaluation.metrics.fid import FeatureStatistics, save_statistics
from ldm.evaluation.sources.open import open_source
from ldm.evaluation.sources.statistics import StoredStatistics


def moments(dim: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    features = np.random.default_rng(seed).normal(size=(50, dim))
    return features.mean(0), np.cov(features, rowvar=False)


def opened(path: Path, **options: Any) -> StoredStatistics:
    source = open_source(str(path), **options)
    assert isinstance(source, StoredStatistics)
    return source


def test_a_reference_batch_of_adm(tmp_path: Path) -> None:
    (mu, sigma), (mu_s, sigma_s) = moments(4), moments(3, seed=1)
    images = np.random.default_rng(2).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    path = tmp_path / "VIRTUAL.npz"
    np.savez(path, images, mu=mu, sigma=sigma, mu_s=mu_s, sigma_s=sigma_s)
    stored = opened(path)
    assert stored.network == "inception-adm"
    assert stored.info.kind == "statistics"
    assert stored.info.count == 0  # the file does not say
    assert stored.info.about["statistics"] == {"pool": 4, "spatial": 3}
    for name, mean, cov in (("pool", mu, sigma), ("spatial", mu_s, sigma_s)):
        found = stored.of(name, len(mean), "InceptionV3 (torch-fidelity, 2048 features)", "f" * 64)
        assert np.array_equal(found.mean, mean)
        assert np.allclose(found.cov, cov, rtol=1e-15, atol=0)
    assert stored.images is not None
    (batch,) = stored.images.batches(64)
    assert np.array_equal(torch.stack(batch.images).permute(0, 2, 3, 1), images)
    few = opened(path, num=2)
    assert few.images is not None
    assert len(few.images) == 2
    assert few.info.sha256 == stored.info.sha256
    with pytest.raises(UserError, match="inception-adm, not of the 4 of dinov2"):
        stored.of("pool", 4, "dinov2")
    with pytest.raises(UserError, match="of pool, spatial, not of the feature 'fc2'"):
        stored.of("fc2", 4, "vgg16")


def test_our_own_files_come_back(tmp_path: Path) -> None:
    rng = torch.Generator().manual_seed(0)
    kept = {
        name: FeatureStatistics(dim).update(torch.randn(30, dim, generator=rng))
        for name, dim in (("pool", 4), ("cls", 3))
    }
    about = {"network": "net", "weights_sha256": "a" * 64, "resize": "clean", "source_sha256": "b"}
    path = tmp_path / "x.npz"
    save_statistics(path, kept, about)
    stored = opened(path)
    assert list(stored.statistics) == ["pool", "cls"]
    for name, own in kept.items():
        found = stored.of(name, own.dim, "net", "a" * 64)
        assert found.count == 30
        assert torch.equal(found.mean, own.mean)
        assert torch.allclose(found.cov, own.cov, rtol=1e-14, atol=0)
    assert stored.info.count == 30
    assert stored.network == "net"
    assert stored.images is None
    assert {key: stored.info.about[key] for key in about} == about
    with pytest.raises(UserError, match="4 features 'pool' of net, not of the 4 of other"):
        stored.of("pool", 4, "other")
    with pytest.raises(UserError, match=r"other weights \(aaaaaaaaaaaa"):
        stored.of("pool", 4, "net", "c" * 64)
    with pytest.raises(UserError, match="cannot be cut down"):
        opened(path, num=3)


def test_a_file_that_names_no_network_is_judged_by_its_size(tmp_path: Path) -> None:
    mu, sigma = moments()
    path = tmp_path / "clean.npz"
    features = np.ones((7, 4), np.float32)
    np.savez(path, mu=mu.astype(np.float32), sigma=sigma, features_pool=features)
    stored = opened(path)
    assert stored.network is None
    assert stored.info.about["network"] == "not recorded"
    assert stored.of("pool", 4, "anything", "f" * 64).dim == 4
    with pytest.raises(UserError, match="a network that it does not name, not of the 8 of net"):
        stored.of("pool", 8, "net")
    assert torch.equal(stored.features["pool"], torch.ones(7, 4))


def test_the_hash_follows_the_moments(tmp_path: Path) -> None:
    mu, sigma = moments()
    for name, shift in (("a", 0.0), ("b", 0.0), ("c", 1e-9)):
        np.savez(tmp_path / f"{name}.npz", mu=mu + shift, sigma=sigma)
    a, b, c = (opened(tmp_path / f"{name}.npz").info.sha256 for name in "abc")
    assert a == b != c


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"sigma": np.eye(3)}, r"no mean \(D,\) and covariance \(D, D\)"),
        ({"mu": np.full(4, np.nan)}, "NaN or infinite"),
        ({"sigma": np.triu(np.ones((4, 4)))}, "not symmetric"),
        ({"sigma": -np.eye(4)}, "negative variance"),
        ({"count": np.array(1)}, "count is 1"),
        ({"count": np.array(2.5)}, "count is 2.5"),
        ({"mu": np.array([{}] * 4, dtype=object)}, "mu cannot be read"),
    ],
)
def test_what_is_no_statistics(tmp_path: Path, change: dict[str, np.ndarray], reason: str) -> None:
    mu, sigma = moments()
    np.savez(tmp_path / "x.npz", **({"mu": mu, "sigma": sigma} | change))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=reason):
        opened(tmp_path / "x.npz")
