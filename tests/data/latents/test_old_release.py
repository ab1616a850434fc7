"""A cache that the release before the modules moved has made: read, gone on with, checked.

``tests/fixtures/old_release`` holds it as that release left it, with the dotted names that classes
had then in ``data.yaml`` and in the recipe in ``manifest.json``.
"""

from __future__ import annotations

import dataclasses
import json
import lzma
import shutil
from pathlib import Path

import pytest
import torch

from ldm.cli.app import call
from ldm.config import load_config
from ldm.data.latents.dataset import CachedLatents
from ldm.data.latents.manifest import Manifest
from ldm.errors import UserError
from ldm.visualization.curves import read_metrics

FIXTURES = Path(__file__).parents[2] / "fixtures" / "old_release"
PARTS = ("caches", "configs/_stage2.yaml", "configs/cached.yaml", "scenes/images", "runs/old-kl")
KEY = "9f3354c9b0fac23d53bc1b6389a5c37e43ec85bb018b7eab1bde78f86fc2ac18"
LOSSES = [0.9660273790359497, 0.8506786823272705, 1.0864615440368652]
"""Of the first steps from this cache, as that release logged them."""
CACHE = ("cache_latents", "configs/cached.yaml", "--out", "caches/old", "--device", "cpu")


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy, in which commands run: the recipe names its images by relative paths."""
    for part in PARTS:
        source, target = FIXTURES / part, tmp_path / part
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)
    for packed in tmp_path.rglob("*.xz"):
        packed.with_suffix("").write_bytes(lzma.decompress(packed.read_bytes()))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _run(name: str, *arguments: str) -> None:
    call(name, arguments)


def _shards() -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in Path("caches/old").rglob("*.safetensors")}


def test_its_names_are_those_of_then_and_its_key_stays() -> None:
    text = Path("caches/old/manifest.json").read_text()
    assert "ldm.data.folder.ImageFolder" in text
    assert Manifest.load(Path("caches/old")).recipe.key == json.loads(text)["key"] == KEY
    data = load_config("caches/old/data.yaml", complete=False).data.params
    assert data.train.target == "ldm.data.CachedLatents"
    assert data.train.params.key == KEY


def test_training_from_it_takes_the_same_steps() -> None:
    config = ("configs/cached.yaml", "caches/old/data.yaml", "name=again")
    _run("train", *config, "every.images=0")
    curves = read_metrics(Path("runs/again/metrics.jsonl"))
    assert [loss for _, loss in curves["train/loss"]] == pytest.approx(LOSSES, rel=1e-4)


def test_a_repeated_call_finds_it_complete(capsys: pytest.CaptureFixture[str]) -> None:
    before, manifest = _shards(), Path("caches/old/manifest.json").read_bytes()
    _run(*CACHE, "--verify")
    _run(*CACHE)
    assert "1 of 1 shards are there" in capsys.readouterr().out
    assert _shards() == before
    assert Path("caches/old/manifest.json").read_bytes() == manifest
    assert CachedLatents("caches/old", key=KEY)[0]["caption"]


def test_one_that_was_interrupted_is_gone_on_with(capsys: pytest.CaptureFixture[str]) -> None:
    """As a kill leaves it: no shard in the manifest, a note beside each that is done."""
    root, whole = Path("caches/old"), CachedLatents("caches/old", flip=1.0)
    expected = [whole[i] for i in range(len(whole))]
    manifest = Manifest.load(root)
    done = manifest.splits["validation"].shards[0]
    (root / "validation" / "00000.json").write_text(json.dumps(dataclasses.asdict(done)))
    manifest.with_shards({"train": (), "validation": ()}).save(root)
    (root / "train" / "00000.safetensors").unlink()
    (root / "data.yaml").unlink()
    _run(*CACHE)
    out = capsys.readouterr().out
    assert "0 of 1 shards are there" in out
    assert "1 of 1 shards are there" in out
    again = CachedLatents(root, flip=1.0, key=KEY)
    for i, item in enumerate(expected):
        assert again[i]["caption"] == item["caption"]
        torch.testing.assert_close(again[i]["moments"], item["moments"], rtol=1e-4, atol=1e-5)
    assert load_config(root / "data.yaml", complete=False).data.params.train.params.key == KEY


def test_one_of_other_data_is_stale() -> None:
    before = _shards()
    with pytest.raises(UserError, match=r"stale: .* transform\.train\.params\.size"):
        _run(*CACHE, "data.params.train.params.size=[16,8]")
    assert _shards() == before
