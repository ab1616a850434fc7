from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from ldm.data.retrieval.embeddings import EmbeddingStore
from ldm.data.retrieval.search import (
    ExactSearch,
    exact_index,
    ivf_index,
    load_index,
    recall,
    save_index,
    with_probes,
)
from ldm.errors import DataError

pytest.importorskip("faiss")


def clustered(count: int, spread: float, width: int = 64, seed: int = 0) -> Tensor:
    """Vectors of length 1 around 200 centres."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(200, width, generator=generator)
    chosen = centres[torch.randint(200, (count,), generator=generator)]
    return F.normalize(chosen + spread * torch.randn(count, width, generator=generator), dim=1)


def store(vectors: Tensor) -> EmbeddingStore:
    files = tuple(f"{k}.png" for k in range(len(vectors)))
    return EmbeddingStore(files, vectors, "CLIP", dict.fromkeys(files, 1), "/photos")


def test_exact_is_exact() -> None:
    vectors, queries = clustered(1000, 1.0), clustered(20, 1.0, seed=1) * 5
    found, expected = exact_index(vectors)(queries, 12), ExactSearch(vectors)(queries, 12)
    assert torch.equal(found.indices, expected.indices)
    torch.testing.assert_close(found.similarities, expected.similarities)
    assert recall(exact_index(vectors), vectors, 10) == 1


def test_ivf_finds_nearly_all_neighbours_of_clustered_vectors() -> None:
    vectors = clustered(5000, 1.0)
    search = ivf_index(vectors)
    assert search.description == "ivf of 128, 16 probes"
    few, default = recall(with_probes(search, 1), vectors, 10), recall(search, vectors, 10)
    assert few < default < 1
    assert default > 0.97
    assert recall(with_probes(search, 128), vectors, 10) == 1


def test_recall_counts_the_neighbours_that_are_found() -> None:
    """A search that finds the query itself and half of the nearest ten."""
    vectors = clustered(100, 1.0)

    def half(queries: Tensor, k: int) -> object:
        found = ExactSearch(vectors)(queries, k)
        found.indices[:, 1 + (k - 1) // 2 :] = -1
        return found

    assert recall(half, vectors, 10) == 0.5  # type: ignore[arg-type]


def test_ivf_gives_what_is_asked_for_though_its_cells_hold_fewer() -> None:
    vectors = clustered(500, 0.5)
    found = ivf_index(vectors, cells=50, probes=1)(vectors[:7], 500)
    assert torch.equal(found.indices.sort(dim=1).values, torch.arange(500).expand(7, 500))
    assert (found.similarities.diff(dim=1) <= 0).all()


def test_the_seed_decides() -> None:
    vectors = clustered(800, 1.0)
    first, again = ivf_index(vectors, 20, 2), ivf_index(vectors, 20, 2)
    assert torch.equal(first(vectors, 5).indices, again(vectors, 5).indices)
    other = ivf_index(vectors, 20, 2, seed=1)
    assert not torch.equal(first(vectors, 5).indices, other(vectors, 5).indices)


@pytest.mark.parametrize("kind", ["exact", "ivf"])
def test_it_is_read_back(kind: str, tmp_path: Path) -> None:
    vectors = clustered(600, 1.0)
    search = exact_index(vectors) if kind == "exact" else ivf_index(vectors, 12, 3)
    save_index(search, store(vectors), tmp_path / "a.index")
    again = load_index(tmp_path / "a.index", store(vectors))
    assert again.description == search.description
    for one, other in zip(search(vectors, 6), again(vectors, 6), strict=True):
        assert torch.equal(one, other)
    if kind == "exact":
        assert (tmp_path / "a.index").stat().st_size < 1000


def test_an_index_of_other_embeddings_is_refused(tmp_path: Path) -> None:
    vectors = clustered(100, 1.0)
    save_index(ivf_index(vectors, 4), store(vectors), tmp_path / "a.index")
    for other in (vectors.flip(0), vectors[:99]):
        with pytest.raises(DataError, match=r"a\.index is of other embeddings.*build it anew"):
            load_index(tmp_path / "a.index", store(other))
    renamed = EmbeddingStore(("x", *store(vectors).files[1:]), vectors, "CLIP", {}, "/photos")
    with pytest.raises(DataError, match="other embeddings"):
        load_index(tmp_path / "a.index", renamed)


def test_what_is_no_index(tmp_path: Path) -> None:
    vectors = clustered(100, 1.0)
    with pytest.raises(DataError, match=r"none: no such file; scripts/build_index\.py writes it"):
        load_index(tmp_path / "none", store(vectors))
    (tmp_path / "bad").write_bytes(b"no tensors")
    with pytest.raises(DataError, match=r"bad: not a file of build_index\.py"):
        load_index(tmp_path / "bad", store(vectors))
    save_index(ivf_index(vectors, 4), store(vectors), tmp_path / "cut")
    tensors = load_file(tmp_path / "cut")
    save_file({**tensors, "index": tensors["index"][:1000]}, tmp_path / "cut")
    with pytest.raises(DataError, match="cut: faiss cannot read it"):
        load_index(tmp_path / "cut", store(vectors))


def test_bad_numbers() -> None:
    vectors = clustered(100, 1.0)
    for cells in (0, 101):
        with pytest.raises(DataError, match=f"must have 1 to 100 cells, got {cells}"):
            ivf_index(vectors, cells)
    with pytest.raises(DataError, match="can probe 1 to 4 of them, got 5"):
        ivf_index(vectors, 4, 5)
    with pytest.raises(DataError, match="cannot find 101 neighbours among 100"):
        ivf_index(vectors, 4)(vectors, 101)
    with pytest.raises(DataError, match=r"must be \(Q, 64\), got \(1, 5\)"):
        exact_index(vectors)(torch.zeros(1, 5), 1)


def test_without_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(DataError, match="pip install faiss-cpu, or search exactly"):
        exact_index(clustered(10, 1.0))
