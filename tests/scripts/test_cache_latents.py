"""Cache the latents of a config and train from them: the commands of docs/latent-cache.md."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import save_file

from ldm.config import instantiate, load_config, save_config
from ldm.data.folder import ImageFolder
from ldm.data.latents.dataset import CachedLatents
from ldm.evaluation.sources.dataset import open_dataset
from ldm.experiment import with_images
from ldm.visualization.curves import read_metrics
from tests.experiments import CONFIGS, before, random_data, shrunk
from tests.scripts.conftest import SCRIPTS, Outcome
from tests.training import tiny

Script = Callable[..., Outcome]
ROOT = SCRIPTS.parent
PHOTOS = 24


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Captioned photos, two first stages with random weights, and a config on top of the first."""
    root = tmp_path_factory.mktemp("world")
    noise = np.random.default_rng(0)
    (root / "photos").mkdir()
    for k in range(PHOTOS):
        pixels = noise.integers(0, 256, (20, 28, 3), np.uint8)
        Image.fromarray(pixels).save(root / "photos" / f"{k:02}.png")
        (root / "photos" / f"{k:02}.txt").write_text("a red circle")
    for seed, name in enumerate(("stage", "other")):
        config = tiny.autoencoder()
        torch.manual_seed(seed)
        model = instantiate(config.model, "model")
        save_config(config, root / name / "config.yaml")
        save_file(model.state_dict(), root / name / "model.safetensors")
    config = tiny.text2img(root / "stage", ROOT / "data" / "scenes" / "vocab.txt")
    for split in ("train", "validation"):
        config.data.params[split] = _photos(root, split, config)
    save_config(config, root / "config.yaml")
    return root


def _photos(root: Path, split: str, config: Any) -> dict[str, Any]:
    params = {
        "root": str(root / "photos"),
        "size": "${image_size}",
        "split": split,
        "validation_fraction": 0.2,
        "flip": 0.5 if split == "train" else 0.0,
        "tokenizer": config.data.params[split].params.tokenizer,
    }
    return {"target": "ldm.data.ImageFolder", "params": params}


def _cache(script: Script, world: Path, out: Path, *arguments: object) -> Outcome:
    small = ("--batch-size", 4, "--shard-mib", 0.02, "--device", "cpu")
    return script("cache_latents.py", world / "config.yaml", "--out", out, *small, *arguments)


def _losses(run: Path) -> tuple[list[tuple[str, int]], list[float]]:
    """Names and steps, and values, of the losses that a run has logged."""
    curves = read_metrics(run / "metrics.jsonl")
    rows = [(name, *row) for name in ("train/loss", "val/loss") for row in curves[name]]
    return [row[:2] for row in rows], [row[2] for row in rows]


def _bytes(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("fp32", 1e-5), pytest.param("bf16", 2e-2, marks=pytest.mark.slow)]
)
def test_training_from_a_cache_is_training_from_its_images(
    script: Script, world: Path, tmp_path: Path, dtype: str, tolerance: float
) -> None:
    """Scale factor, order, flips and losses are those of the uncached run; previews are drawn."""
    made = _cache(script, world, tmp_path / "cache", "--dtype", dtype)
    assert made.code == 0, made.err
    assert "plain and mirrored" in made.out
    assert "verified: all checksums" in made.out
    runs = []
    for name, files in (("images", []), ("cached", [tmp_path / "cache" / "data.yaml"])):
        done = script(
            *("train.py", world / "config.yaml", *files, f"name={name}", "--runs", tmp_path),
            "trainer.max_steps=8",
        )
        assert done.code == 0, done.err
        runs.append(_losses(tmp_path / name))
        assert (tmp_path / name / "samples" / "step-0000008.png").exists()
    images, cached = runs
    assert len(images[0]) == 8 + 4
    assert cached[0] == images[0]
    assert cached[1] == pytest.approx(images[1], rel=tolerance)


def test_a_repeated_call_has_nothing_to_do_and_mends_what_is_damaged(
    script: Script, world: Path, tmp_path: Path
) -> None:
    assert _cache(script, world, tmp_path).code == 0
    before = _bytes(tmp_path)
    assert {"manifest.json", "data.yaml", "train/00000.safetensors"} < set(before)
    again = _cache(script, world, tmp_path)
    assert "3 of 3 shards are there" in again.out
    shard = tmp_path / "train" / "00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-9])
    checked = _cache(script, world, tmp_path, "--verify")
    assert checked.code == 2
    assert f"shard '{shard}' is damaged" in checked.err
    assert checked.err.count("error:") == 1
    assert "2 of 3 shards are there" in _cache(script, world, tmp_path).out
    assert _bytes(tmp_path) == before
    assert _cache(script, world, tmp_path, "--verify").code == 0


def test_flipped_bits_and_a_damaged_manifest_are_mended(
    script: Script, world: Path, tmp_path: Path
) -> None:
    assert _cache(script, world, tmp_path).code == 0
    before = _bytes(tmp_path)
    content = bytearray(before["train/00001.safetensors"])
    content[-3] ^= 8
    (tmp_path / "train" / "00001.safetensors").write_bytes(content)
    assert "2 of 3 shards are there" in _cache(script, world, tmp_path).out
    assert _bytes(tmp_path) == before
    manifest = tmp_path / "manifest.json"
    for harm in (b"null", before["manifest.json"].replace(b'"items": 1', b'"items": 2')):
        manifest.write_bytes(harm)
        failed = _cache(script, world, tmp_path, "--verify")
        assert failed.code == 2
        assert "is no manifest of a latent cache" in failed.err
        mended = _cache(script, world, tmp_path)
        assert "which is done now" in mended.out + mended.err
        assert _bytes(tmp_path) == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["{stage}=other"], "another value of the autoencoder;"),
        (["data.params.train.params.size=[16,8]"], "of transform.train.params.size"),
        (["--dtype", "bf16"], "of --dtype"),
        (["data.params.train.params.flip=0.0"], "of transform.mirrored"),
        (["--without", "tokens"], "of transform.left_out"),
    ],
)
def test_a_stale_cache_is_refused(
    script: Script, world: Path, tmp_path: Path, change: list[str], words: str
) -> None:
    assert _cache(script, world, tmp_path).code == 0
    before = _bytes(tmp_path)
    stage = f"model.params.autoencoder.params.path={world}/"
    change = [item.replace("{stage}=", stage) for item in change]
    for verify in ([], ["--verify"]):
        refused = _cache(script, world, tmp_path, *change, *verify)
        assert refused.code == 2
        assert f"{tmp_path} is stale" in refused.err
        assert words in refused.err
        assert refused.err.count("\n") <= 2
    assert _bytes(tmp_path) == before


@pytest.fixture
def cache(script: Script, world: Path, tmp_path: Path) -> Path:
    assert _cache(script, world, tmp_path / "cache").code == 0
    return tmp_path / "cache"


def _train(script: Script, world: Path, cache: Path, *arguments: object) -> Outcome:
    command = ("train.py", world / "config.yaml", cache / "data.yaml")
    return script(*command, "--runs", cache.parent, "name=run", *arguments)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("model.params.autoencoder.params.path={world}/other", "is stale: autoencoder"),
        ("data.params.train.params.key=" + "ab" * 32, "is stale: it has the key"),
        ("image_size=32", "images of (16, 16) pixels"),
        ("data.params.train.params.split=test", "no split 'test'"),
    ],
)
def test_training_refuses_another_cache_before_it_writes(
    script: Script, world: Path, cache: Path, change: str, words: str
) -> None:
    refused = _train(script, world, cache, change.replace("{world}", str(world)))
    assert refused.code == 2
    assert words in refused.err
    assert refused.err.count("\n") == 1
    assert not (cache.parent / "run").exists()


def test_a_run_is_resumed_from_its_cache_and_from_no_other(
    script: Script, world: Path, cache: Path
) -> None:
    run = cache.parent / "run"
    assert _train(script, world, cache, "trainer.max_steps=2").code == 0
    assert script("train.py", "--resume", run, "trainer.max_steps=4").code == 0
    assert json.loads((run / "status.json").read_text())["step"] == 4

    cache.rename(cache.with_name("away"))
    other = f"model.params.autoencoder.params.path={world / 'other'}"
    assert _cache(script, world, cache, other).code == 0
    refused = script("train.py", "--resume", run, "trainer.max_steps=6")
    assert refused.code == 2
    assert "is stale: it has the key" in refused.err
    keys = [f"data.params.{split}.params.key=null" for split in ("train", "validation")]
    refused = script("train.py", "--resume", run, "trainer.max_steps=6", *keys)
    assert refused.code == 2
    assert "is stale: autoencoder" in refused.err


def test_evaluations_of_a_run_see_its_images(world: Path, cache: Path) -> None:
    config = load_config(world / "config.yaml", cache / "data.yaml")
    found = instantiate(with_images(config).data, "data")
    for dataset in (found.train, found.validation):
        assert isinstance(dataset, ImageFolder)
    assert found.train.framing.flip == 0.5
    assert isinstance(instantiate(config.data, "data").validation, CachedLatents)
    images = load_config(world / "config.yaml", overrides=["+uncached=null"])
    images.uncached = config.uncached
    images.data.params.train.params.flip = 0.0  # a run that has left the cache since then
    assert with_images(images).data.params.train.params.flip == 0.0


def test_evaluate_compares_with_them(world: Path, cache: Path) -> None:
    file = world / "cached.yaml"
    save_config(load_config(world / "config.yaml", cache / "data.yaml"), file)
    source = open_dataset(str(file))
    assert len(next(source.batches(2)).images) == 2


def test_a_first_stage_is_not_trained_on_latents(
    script: Script, cache: Path, tmp_path: Path
) -> None:
    save_config(tiny.autoencoder(), tmp_path / "stage.yaml")
    command = ("train.py", tmp_path / "stage.yaml", cache / "data.yaml", "--runs", tmp_path / "r")
    refused = script(*command, "+image_size=16")
    assert refused.code == 2
    assert "holds latents, AutoencoderTask trains on images" in refused.err


def test_show_data_describes_a_cache(script: Script, world: Path, cache: Path) -> None:
    options = ("--seconds", 0, "--out", cache.parent / "data.png")
    shown = script("show_data.py", world / "config.yaml", cache / "data.yaml", *options)
    assert "moments        float32  (4, 8, 8)" in shown.out
    assert shown.code == 2
    assert "hold no image to draw" in shown.err


def test_random_crops_need_a_number_of_epochs(script: Script, world: Path, tmp_path: Path) -> None:
    crops = "data.params.train.params.crop=random"
    refused = _cache(script, world, tmp_path, f"+{crops}")
    assert refused.code == 2
    assert "'image' of training item 0 is drawn anew in every epoch" in refused.err
    assert not (tmp_path / "manifest.json").exists()
    assert _cache(script, world, tmp_path, f"+{crops}", "--epochs", 3).code == 0
    cached = CachedLatents(tmp_path)
    first = cached[0]["moments"]
    cached.set_epoch(1)
    assert not torch.equal(cached[0]["moments"], first)
    needless = _cache(script, world, tmp_path / "x", "--epochs", 3)
    assert needless.code == 2
    assert "all epochs of the training set are alike" in needless.err


def _of_tars(world: Path, root: Path) -> Path:
    """A config whose data are the photos with their captions, seven in each tar file."""
    root.mkdir()
    files = sorted((world / "photos").iterdir())  # 00.png, 00.txt, 01.png, ...
    for start in range(0, len(files), 14):
        with tarfile.open(root / f"{start:02}.tar", "w") as tar:
            for file in files[start : start + 14]:
                tar.add(file, file.name)
    config = load_config(world / "config.yaml")
    for split, flip in (("train", 0.5), ("validation", 0.0)):
        frame = {"size": "${image_size}", "crop": "center", "flip": flip}
        tokenizer = config.data.params[split].params.tokenizer
        framed = {"target": "ldm.data.make_framing", "params": frame}
        shards = {"shards": str(root), "framing": framed, "tokenizer": tokenizer}
        config.data.params[split] = {"target": "ldm.data.Shards", "params": shards}
    save_config(config, root / "config.yaml")
    return root / "config.yaml"


def test_a_cache_of_tar_shards_is_that_of_the_same_images(
    script: Script, world: Path, tmp_path: Path
) -> None:
    """Crops of two epochs, plain and mirrored, and all captions; also after an interruption."""
    config = _of_tars(world, tmp_path / "tars")
    call = [
        *("cache_latents.py", config, "--out", tmp_path / "of tars"),
        "data.params.train.params.framing.params.crop=random",
        *("--batch-size", 4, "--shard-mib", 0.02, "--device", "cpu", "--epochs", 2, "--workers", 2),
    ]
    made = script(*call)
    assert made.code == 0, made.err
    assert f"train: {PHOTOS} items, plain and mirrored, 2 epochs" in made.out
    (tmp_path / "of tars" / "train" / "00002.safetensors").unlink()
    assert script(*call).code == 0

    options = [f"data.params.{s}.params.split=all" for s in ("train", "validation")]
    options.append("+data.params.train.params.crop=random")
    assert _cache(script, world, tmp_path / "of files", *options, "--epochs", 2).code == 0
    caches = [_bytes(tmp_path / name) for name in ("of tars", "of files")]
    latents = [{k: v for k, v in c.items() if k.endswith(".safetensors")} for c in caches]
    assert len(latents[0]) > 4
    assert latents[0] == latents[1]
    done = _train(script, world, tmp_path / "of tars", "trainer.max_steps=2")
    assert done.code == 0, done.err


def test_entries_are_chosen(script: Script, world: Path, tmp_path: Path) -> None:
    options = ("--with-image", "--without", "caption")
    assert _cache(script, world, tmp_path, *options).code == 0
    item = CachedLatents(tmp_path)[0]
    assert set(item) == {"moments", "image", "tokens"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--epochs", "0"], "--epochs and --batch-size must be at least 1"),
        (["--shard-mib", "0"], "--shard-mib 0.0: must be positive"),
        (["data.params.validation.params.flip=0.5"], "a validation set is not mirrored"),
        (["data.params.train=null"], "data.params.train: missing"),
        (["--verify"], "is no latent cache"),
        (
            ["model.params.autoencoder={stage}"],
            "ldm.autoencoders.AutoencoderKL has random weights",
        ),
    ],
)
def test_bad_input_is_one_line(
    script: Script, world: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    stage = load_config(world / "stage" / "config.yaml", complete=False).model
    node = json.dumps(OmegaConf.to_container(stage, resolve=True)).replace('"', "")
    arguments = [item.replace("{stage}", node) for item in arguments]
    refused = _cache(script, world, tmp_path / "out", *arguments)
    assert refused.code == 2
    assert words in refused.err
    assert refused.err.count("\n") == 1
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_folder_with_other_files_is_left_alone(
    script: Script, world: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    refused = _cache(script, world, tmp_path)
    assert refused.code == 2
    assert "holds other files (notes.txt)" in refused.err
    assert _bytes(tmp_path) == {"notes.txt": b"mine"}


def _command(config: Path, out: Path) -> list[str]:
    command = [str(SCRIPTS / "cache_latents.py"), str(config), "--out", str(out)]
    return [*command, *("--batch-size", "1", "--shard-mib", "0.002", "--device", "cpu")]


_ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


@pytest.mark.slow
@pytest.mark.parametrize("source", ["files", "tars"])
def test_two_processes_and_killed_calls_make_the_same_bytes(
    world: Path, tmp_path: Path, source: str
) -> None:
    """Killed at several moments by SIGKILL, and gone on with."""
    tars = source == "tars"
    config = _of_tars(world, tmp_path / "tars") if tars else world / "config.yaml"
    whole, out = tmp_path / "whole", tmp_path / "out"
    subprocess.run([sys.executable, *_command(config, whole)], check=True, env=_ENVIRONMENT)
    expected = _bytes(whole)
    expected = {k: v.replace(str(whole).encode(), str(out).encode()) for k, v in expected.items()}
    assert len(expected) > 20

    killed = 0
    for shards in (1, 5, 12):
        call = subprocess.Popen([sys.executable, *_command(config, out)], env=_ENVIRONMENT)
        while call.poll() is None and len(list(out.glob("*/*.safetensors"))) < shards:
            time.sleep(0.001)
        call.send_signal(signal.SIGKILL)
        killed += call.wait() == -signal.SIGKILL
    assert killed
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command = [*torchrun, "--master-port", "29613", *_command(config, out)]
    subprocess.run(command, check=True, env=_ENVIRONMENT)
    assert _bytes(out) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "unconditional/lsun-churches-ldm-8",
        "class/cin256",
        "text/laion-ldm-8",
        "layout/coco-ldm-8",
        "semantic/landscapes-256",
        "super_resolution/imagenet-ldm-4",
        "inpainting/places-ldm-4-vq",
        "retrieval/rdm-768",
        "sweep/imagenet-ldm-1",
    ],
)
def test_models_of_every_task_train_from_a_cache(script: Script, tmp_path: Path, name: str) -> None:
    """Whatever is conditioned on, images that the first stage encodes each time among it."""
    path = CONFIGS / f"{name}.yaml"
    changes = [*before(path, tmp_path / "first", small=True), *shrunk(path)]
    config = [path, *random_data(path), *changes]
    made = script("cache_latents.py", *config, "--out", tmp_path / "cache", "--device", "cpu")
    assert made.code == 0, made.err
    files = [path, *random_data(path), tmp_path / "cache" / "data.yaml"]
    rest = [change for change in changes if not change.startswith("data.params.validation.")]
    done = script("train.py", *files, *rest, "--runs", tmp_path / "runs")
    assert done.code == 0, done.err
    assert list((tmp_path / "runs").glob("*/samples/step-0000002.png"))


def test_a_cache_that_was_moved_is_found_from_anywhere(
    script: Script, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    made = _cache(script, world, Path("caches/mine"))
    assert made.code == 0, made.err
    copy = tmp_path / "a copy"
    shutil.copytree("caches/mine", copy)
    monkeypatch.chdir(tmp_path)

    def root(file: Path | str) -> str:
        return str(load_config(world / "config.yaml", file).data.params.train.params.root)

    assert root("there/caches/mine/data.yaml") == "there/caches/mine"
    assert root(copy / "data.yaml") == str(copy)
    (tmp_path / "mine.yaml").write_text("base: a copy/data.yaml\nseed: 5\n")
    assert root("mine.yaml") == "a copy"
    shutil.copy(copy / "data.yaml", tmp_path / "data.yaml")
    assert root("data.yaml") == "caches/mine"  # no cache of its own: as it is written
