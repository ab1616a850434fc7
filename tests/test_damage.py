"""Damaged files of every kind that is read: the same numbers, or one line; never other numbers."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ldm.checkpoint import load_training_checkpoint, read_state, save
from ldm.conditioners.pretrained import read_weights
from ldm.data.latents.manifest import Manifest, Recipe, Split, as_written
from ldm.data.latents.shard import Shard, describe, pack, write_shard
from ldm.data.retrieval.dataset import _read, kept
from ldm.data.retrieval.embeddings import EmbeddingStore, stored
from ldm.data.retrieval.search import ivf_index, load_index, save_index
from ldm.errors import UserError
from ldm.evaluation.extraction import FeatureCache, Features
from ldm.evaluation.metrics.fid import FeatureStatistics, save_statistics
from ldm.evaluation.sources.npz import NpzSource
from ldm.evaluation.sources.open import open_source
from ldm.evaluation.sources.statistics import StoredStatistics
from tests import mutations

SECONDS, MEGABYTES = 2.0, 200
FACTS = {"source": "a" * 64}


def weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    state = {f"denoiser.{k}": torch.randn(7, 5, generator=generator) for k in range(3)}
    return {**state, "scale_factor": torch.tensor(0.5)}


def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 6, 7, 3), np.uint8)


def features() -> Features:
    points = torch.randn(9, 4, generator=torch.Generator().manual_seed(1))
    statistics = FeatureStatistics(4).update(points)
    labels = torch.arange(9)
    return Features(9, 9, statistics, torch.arange(9), points, labels, [f"é {k}" for k in range(9)])


def store() -> EmbeddingStore:
    vectors = torch.nn.functional.normalize(features().points, dim=1)
    files = tuple(f"caf\udce9 {k}.jpg" for k in range(9))
    return EmbeddingStore(files, vectors, "colour", dict.fromkeys(files, 3), "/photos")


def items() -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(2)
    return [
        {
            "moments": torch.randn(2, 3, 3, generator=generator),
            "caption": f"caf\udce9 {k}" * k,
            "class": k * 1000,
            "weight": k / 3,
        }
        for k in range(6)
    ]


def written_shard(path: Path) -> None:
    write_shard(path, pack(items(), list(reversed(items())), describe(items()[0])))


def read_shard(path: Path) -> Any:
    shard = Shard(path, describe(items()[0]), 6)
    return [[shard.item(row, mirrored) for row in range(6)] for mirrored in (False, True)]


def manifest(path: Path) -> None:
    written = as_written({"sha256": "b" * 64, "bytes": 100})
    splits = {"train": Split(6, 1, True, 6, (written,))}
    recipe = Recipe("a" * 64, {"train": {"size": 16}}, "fp32")
    Manifest(recipe, (16, 16), describe(items()[0]), splits, {"torch": "2"}).save(path.parent)


def read_npz(path: Path) -> Any:
    source = NpzSource(str(path))
    found = [item.image for item in source._items(0, 1)]  # type: ignore[union-attr]
    assert source.info.count == len(found)
    return found, source._labels


def read_statistics(path: Path) -> Any:
    found = open_source(str(path))
    if not isinstance(found, StoredStatistics):
        raise UserError("no statistics")
    moments = {name: (part.mean, part.cov, part.count) for name, part in found.statistics.items()}
    return moments


def read_features(path: Path) -> Any:
    found = FeatureCache(path.parent).get(FACTS)
    return None if found is None else (asdict(found) | {"statistics": found.statistics.cov})


def written_neighbours(path: Path) -> None:
    kept(path, {"count": 2}, lambda: torch.arange(10).view(5, 2), lambda _: True)


def read_neighbours(path: Path) -> Any:
    return _read(path, {"count": 2}, lambda table: table.shape == (5, 2))


def read_index(path: Path) -> Any:
    search = load_index(path, store())
    return search.description, search(store().vectors, 2).indices


def legacy(path: Path) -> None:
    torch.save(weights(), path, _use_new_zipfile_serialization=False)


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        name: of a file.
        write: makes it.
        read: what is read of it; None: it is void, and would be made anew.
        checked: whether any damage is noticed.
    """

    name: str
    write: Callable[[Path], object]
    read: Callable[[Path], Any]
    checked: bool = True


def state(path: Path) -> Any:
    return read_state(path).state_dict


KINDS = {
    "checkpoint": Kind("a.ckpt", lambda p: save({"state_dict": weights(), "step": 3}, p), state),
    "training checkpoint": Kind(
        "a.ckpt", lambda p: save({"state_dict": weights()}, p), load_training_checkpoint
    ),
    "weights of a network": Kind("a.pt", lambda p: save(weights(), p), read_weights),
    "old pickle": Kind("a.ckpt", legacy, state, checked=False),
    "safetensors": Kind("a.safetensors", lambda p: save(weights(), p), state),
    "npz": Kind("a.npz", lambda p: np.savez(p, images(), np.arange(5)), read_npz),
    "compressed npz": Kind("a.npz", lambda p: np.savez_compressed(p, images()), read_npz),
    "statistics": Kind(
        "a.npz",
        lambda p: save_statistics(p, {"pool": features().statistics}, {"network": "a"}),  # type: ignore[dict-item]
        read_statistics,
    ),
    "shard": Kind("a.safetensors", written_shard, read_shard),
    "manifest": Kind("manifest.json", manifest, lambda p: asdict(Manifest.load(p.parent))),
    "embeddings": Kind("a.safetensors", lambda p: store().save(p), lambda p: _fields(stored(p))),
    "index": Kind(
        "a.ivf", lambda p: save_index(ivf_index(store().vectors, 2), store(), p), read_index
    ),
    "features": Kind(
        FeatureCache(Path())._file(FACTS).name,
        lambda p: FeatureCache(p.parent).put(FACTS, features()),
        read_features,
    ),
    "neighbours": Kind("a.safetensors", written_neighbours, read_neighbours),
}


def _fields(found: EmbeddingStore | None) -> Any:
    return None if found is None else vars(found) | {"fingerprint": None}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def outcome(kind: Kind, path: Path, expected: Any) -> str:
    """What reading a damaged file gives: same, void, refused or other."""
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    said = ""
    try:
        found = kind.read(path)
        result = "void" if found is None else "same" if same(found, expected) else "other"
    except UserError as error:
        said, result = str(error), "refused"
    assert "\n" not in said
    assert len(said) < 1500
    assert time.process_time() - begun < SECONDS
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < MEGABYTES << 10
    return result


def attack(kind: Kind, folder: Path, seed: int, count: int) -> dict[str, int]:
    path = folder / kind.name
    kind.write(path)
    content, expected = path.read_bytes(), kind.read(path)
    copies = list(mutations.damaged(content, seed, count))
    copies += [(f"{text[:20]!r} instead", text) for text in mutations.JSON]
    seen: dict[str, int] = {}
    for what, data in copies:
        path.write_bytes(data)
        try:
            found = outcome(kind, path, expected)
        except Exception as error:
            raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
        assert found != "other" or not kind.checked, what
        seen[found] = seen.get(found, 0) + 1
    return seen


@pytest.mark.parametrize("name", KINDS)
def test_damage_is_noticed_or_harmless(name: str, tmp_path: Path) -> None:
    seen = attack(KINDS[name], tmp_path, seed=0, count=6)
    assert seen.get("refused", 0) + seen.get("void", 0) + seen.get("same", 0) > 20


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 4))
@pytest.mark.parametrize("name", KINDS)
def test_a_lot_of_damage_is_noticed_or_harmless(name: str, seed: int, tmp_path: Path) -> None:
    attack(KINDS[name], tmp_path, seed, count=100)


@pytest.mark.parametrize("save_arrays", [np.savez, np.savez_compressed])
def test_no_bit_of_an_index_hides_an_array(save_arrays: Any, tmp_path: Path) -> None:
    file = tmp_path / "x.npz"
    save_arrays(file, arr_0=images(), arr_1=np.arange(5))
    good, expected = file.read_bytes(), str(read_npz(file)[1])
    for place in range(len(good) - 150, len(good)):
        for bit in range(8):
            flipped = bytes([good[place] ^ (1 << bit)])
            file.write_bytes(good[:place] + flipped + good[place + 1 :])
            with contextlib.suppress(UserError):
                assert str(read_npz(file)[1]) == expected
