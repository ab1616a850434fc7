from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ldm.evaluation.extraction import (
    Extractor,
    FeatureCache,
    Features,
    Output,
    Request,
    chosen,
    extract_features,
)
from ldm.evaluation.metrics.fid import FeatureStatistics
from ldm.evaluation.networks.base import features_of
from ldm.evaluation.report import run_facts
from ldm.evaluation.sources.base import CorruptImages, Item, Unreadable
from tests.evaluation.small_evaluation import Pictures, pictures, sums

ROOT = Path(__file__).parents[2]
FEATURES, LOGITS = Output("sums", "features"), Output("sums", "logits")
NEEDS = {FEATURES: Request(True, 10), LOGITS: Request(keep=50)}


def source(**options: object) -> Pictures:
    labels, captions = [k % 3 for k in range(37)], [f"picture {k}" for k in range(37)]
    return Pictures(pictures(37, seed=1), labels, captions, **options)  # type: ignore[arg-type]


def gathered(batch_size: int = 64) -> dict[Output, Features]:
    return extract_features(source(), {"sums": sums()}, NEEDS, batch_size=batch_size, seed=3)


def test_what_is_gathered_is_what_the_network_gives() -> None:
    found = gathered()
    want = features_of(sums(), pictures(37, seed=1))
    statistics = FeatureStatistics(6).update(want["features"])
    got = found[FEATURES].statistics
    assert got is not None
    assert (got.count, found[FEATURES].count) == (37, 37)
    torch.testing.assert_close(got.cov, statistics.cov, rtol=1e-10, atol=1e-10)
    indices = chosen(37, 10, seed=3)
    assert torch.equal(found[FEATURES].indices, indices)
    torch.testing.assert_close(found[FEATURES].points, want["features"][indices])
    assert found[FEATURES].captions == [f"picture {k}" for k in indices.tolist()]
    assert found[LOGITS].statistics is None
    torch.testing.assert_close(found[LOGITS].points, want["logits"])
    labels = found[LOGITS].labels
    assert labels is not None
    assert labels.tolist() == [k % 3 for k in range(37)]


def test_batches_of_1_and_64_agree() -> None:
    one, many = gathered(1), gathered(64)
    for output in NEEDS:
        torch.testing.assert_close(one[output].points, many[output].points, rtol=1e-6, atol=1e-6)
        assert torch.equal(one[output].indices, many[output].indices)
    a, b = one[FEATURES].statistics, many[FEATURES].statistics
    assert a is not None
    assert b is not None
    torch.testing.assert_close(a.mean, b.mean, rtol=1e-6, atol=1e-7)  # the network is float32


PROCESS = """
import sys
import torch
import torch.distributed as dist
from ldm.evaluation.extraction import extract_features
from tests.evaluation.test_extraction import FEATURES, LOGITS, NEEDS, gathered, source, sums

rank = int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}/meet", rank=rank, world_size=2)
found = gathered(1)
skipping = source(broken=(4, 21), skip_corrupt=True)
extract_features(skipping, {"sums": sums()}, NEEDS, batch_size=1, seed=3)
moments = found[FEATURES].statistics
torch.save(
    [moments.mean, moments.cov, found[FEATURES].points, found[FEATURES].indices,
     found[LOGITS].points, found[LOGITS].labels, torch.tensor(found[LOGITS].count),
     skipping.corrupt],
    f"{sys.argv[1]}/{rank}.pt",
)
dist.destroy_process_group()
"""


def test_two_processes_agree_with_one(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROCESS, str(tmp_path)]
    processes = [subprocess.Popen([*command, str(rank)], cwd=ROOT) for rank in range(2)]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    want = gathered(1)
    statistics, logits = want[FEATURES].statistics, want[LOGITS]
    assert statistics is not None
    torch.testing.assert_close(first[0], statistics.mean, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(first[1], statistics.cov, rtol=1e-10, atol=1e-12)
    assert torch.equal(second[1], first[1])
    assert torch.equal(first[2], want[FEATURES].points)
    assert torch.equal(first[3], want[FEATURES].indices)
    assert torch.equal(first[4], logits.points)
    assert logits.labels is not None
    assert torch.equal(first[5], logits.labels)
    assert int(first[6]) == int(second[6]) == 37
    assert first[7] == second[7]
    assert [name.split()[0] for name in first[7]] == ["4.png", "21.png"]


def test_what_is_kept_is_neither_the_first_nor_every_nth() -> None:
    few, more = chosen(10_000, 100, seed=0), chosen(10_000, 500, seed=0)
    assert len(few) == 100
    assert torch.isin(few, more).all()
    assert len((few % 10).unique()) == 10
    assert few.max() > 9_000
    assert torch.equal(chosen(5, None, 0), torch.arange(5))
    assert torch.equal(chosen(5, 9, 0), torch.arange(5))


def test_corrupt_images_are_named_or_left_out() -> None:
    networks, needs = {"sums": sums()}, {LOGITS: Request(keep=37)}
    with pytest.raises(CorruptImages, match=r"2 of the 37 images.*4\.png.*20\.png"):
        extract_features(source(broken=(4, 20)), networks, needs, batch_size=8, seed=0)
    skipping = source(broken=(4, 20), skip_corrupt=True)
    found = extract_features(skipping, networks, needs, batch_size=8, seed=0)[LOGITS]
    assert found.count == 35
    assert found.indices.tolist() == [k for k in range(37) if k not in (4, 20)]
    assert len(skipping.corrupt) == 2


def test_images_of_several_sizes() -> None:
    mixed = [*pictures(3, 0, size=8), *pictures(2, 1, size=12), *pictures(2, 2, size=8)]
    found = extract_features(
        Pictures(mixed), {"sums": sums()}, {LOGITS: Request(keep=7)}, batch_size=7, seed=0
    )
    alone = torch.cat([features_of(sums(), [image])["logits"] for image in mixed])
    torch.testing.assert_close(found[LOGITS].points, alone)


# -- the cache ----------------------------------------------------------------------------------


def _seen(network: object) -> int:
    return network.seen  # type: ignore[attr-defined,no-any-return]


def test_the_cache_spares_the_second_pass(tmp_path: Path) -> None:
    network, cache = sums(), FeatureCache(tmp_path)
    first = Extractor({"sums": network}, cache=cache).images(source(), NEEDS, "images")
    assert _seen(network) == 37
    again = Extractor({"sums": network}, cache=cache)
    second = again.images(source(), NEEDS, "images")
    assert _seen(network) == 37
    assert again.reused == ["images, sums.features", "images, sums.logits"]
    for output, got in second.items():
        want = first[output]
        assert torch.equal(got.points, want.points)
        assert torch.equal(got.indices, want.indices)
        assert got.captions == want.captions
        assert (got.count, got.total) == (want.count, want.total)
    statistics, before = second[FEATURES].statistics, first[FEATURES].statistics
    assert statistics is not None
    assert before is not None
    torch.testing.assert_close(statistics.cov, before.cov, rtol=1e-12, atol=1e-12)


def test_the_cache_knows_what_decides(tmp_path: Path) -> None:
    cache, network = FeatureCache(tmp_path), sums()
    Extractor({"sums": network}, cache=cache).images(source(), NEEDS, "images")
    other_images = Pictures(pictures(37, seed=2))
    others = [
        (other_images, Extractor({"sums": network}, cache=cache), NEEDS),
        (source(), Extractor({"sums": sums(seed=1)}, cache=cache), NEEDS),
        (
            source(),
            Extractor({"sums": network}, cache=cache, seed=5),
            {FEATURES: Request(True, 10)},
        ),
        (source(), Extractor({"sums": network}, cache=cache), {FEATURES: Request(True, 11)}),
    ]
    for images, extractor, needs in others:
        extractor.images(images, needs, "images")
        assert extractor.reused == []
    whole = Extractor({"sums": network}, cache=cache, seed=5)  # all are kept: no choice, no seed
    Extractor({"sums": network}, cache=cache).images(source(), {LOGITS: Request(keep=37)}, "images")
    whole.images(source(), {LOGITS: Request(keep=37)}, "images")
    assert whole.reused


def test_a_damaged_cache_is_made_anew(tmp_path: Path) -> None:
    cache, network = FeatureCache(tmp_path), sums()
    Extractor({"sums": network}, cache=cache).images(source(), NEEDS, "images")
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes()[:100])
    again = Extractor({"sums": network}, cache=cache)
    again.images(source(), NEEDS, "images")
    assert again.reused == []


def test_what_lacks_corrupt_images_is_not_kept(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    broken = source(broken=(4,), skip_corrupt=True)
    Extractor({"sums": sums()}, cache=cache).images(broken, NEEDS, "images")
    assert list(tmp_path.iterdir()) == []


class Replacing(Pictures):
    """Beside all its images, says that one of them stands for an unreadable one, as streams do."""

    def _items(self, rank: int, processes: int) -> Iterator[Item | Unreadable]:
        yield from super()._items(rank, processes)
        yield Unreadable("a.tar", "it ends early")


def test_what_has_replacements_is_not_kept(tmp_path: Path) -> None:
    replaced = Replacing(pictures(37, seed=1), skip_corrupt=True)
    extractor = Extractor({"sums": sums()}, cache=FeatureCache(tmp_path))
    assert extractor.images(replaced, NEEDS, "images")[LOGITS].count == 37
    assert list(tmp_path.iterdir()) == []


def test_the_cache_knows_the_arithmetic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an accelerator: no features are computed here, but their key is."""
    images, need = source().info, Request(True)
    monkeypatch.setattr(torch.cuda, "get_device_name", str)
    keys = set()
    for device in ("cpu", "cuda"):
        for precise in (False, True):
            monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", not precise)
            extractor = Extractor({"sums": sums()}, device)
            keys.add(FeatureCache.key(extractor._facts(images, FEATURES, need)))
            assert run_facts(device, 1, 0)["tf32"] is (device == "cuda" and not precise)
    assert len(keys) == 3
