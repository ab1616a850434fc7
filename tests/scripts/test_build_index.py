"""Embed a folder, index it, show, train and sample: the commands of docs/data/retrieval.md."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file

from ldm.config import instantiate, load_config
from ldm.data.retrieval.embeddings import EmbeddingStore
from ldm.data.retrieval.search import load_index
from ldm.load.model import load_model
from tests.conditioners.clips import OPEN, write_clip
from tests.experiments import CONFIGS, before, shrunk
from tests.scripts.conftest import Outcome
from tests.scripts.small_runs import small_run

pytest.importorskip("faiss")

Script = Callable[..., Outcome]
ARCH = {**OPEN, "embed_dim": 8}
PHOTOS = 40
MODEL = CONFIGS / "retrieval" / "rdm-768.yaml"
RECIPE = CONFIGS / "data" / "retrieval-folder.yaml"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of a CLIP model, and a folder of images."""
    root = tmp_path_factory.mktemp("world")
    write_clip(root, ARCH)
    noise = np.random.default_rng(0)
    (root / "photos").mkdir()
    for k in range(PHOTOS):
        pixels = noise.integers(0, 256, (32, 40, 3), np.uint8)
        Image.fromarray(pixels).save(root / "photos" / f"{k:02}.png")
    return root


def _build(script: Script, root: Path, *arguments: object) -> Outcome:
    clip = ("--clip", root / "tiny.json", "--clip-weights", root / "clip.safetensors")
    return script("build_index.py", root / "photos", *clip, "--device", "cpu", *arguments)


@pytest.fixture
def embeddings(script: Script, world: Path) -> Path:
    assert _build(script, world).code == 0
    return world / "photos.tiny.safetensors"


@torch.no_grad()
def test_embeddings_are_those_of_clip(world: Path, embeddings: Path) -> None:
    model = open_clip.CLIP(**ARCH).eval()
    model.load_state_dict(load_file(world / "clip.safetensors"))
    prepare = open_clip.image_transform(8, is_train=False)
    store = EmbeddingStore.load(embeddings)
    assert store.files == tuple(f"{k:02}.png" for k in range(PHOTOS))
    pixels = torch.stack([prepare(Image.open(world / "photos" / name)) for name in store.files])
    cosines = model.encode_image(pixels, normalize=True) @ store.vectors.T
    assert cosines.diagonal().min() > 0.999
    assert torch.equal(cosines.argmax(dim=1), torch.arange(PHOTOS))


def test_only_new_images_are_embedded_again(script: Script, world: Path, embeddings: Path) -> None:
    before_ = embeddings.stat().st_mtime_ns
    outcome = _build(script, world)
    assert f"{PHOTOS} embeddings kept in {embeddings}" in outcome.out
    assert embeddings.stat().st_mtime_ns == before_
    Image.new("RGB", (32, 32)).save(world / "photos" / "new.png")
    try:
        assert f"{PHOTOS + 1} embeddings kept" in _build(script, world).out
    finally:
        (world / "photos" / "new.png").unlink()
    assert f"{PHOTOS} embeddings kept" in _build(script, world).out


@pytest.mark.parametrize("kind", ["exact", "ivf"])
def test_an_index_finds_what_training_and_sampling_see(
    kind: str, script: Script, world: Path, embeddings: Path, tmp_path: Path
) -> None:
    """Of two cells with one probe: other neighbours than those of an exact search."""
    out = tmp_path / "an.index"
    options = ("--cells", 2, "--probes", 1) if kind == "ivf" else ()
    outcome = _build(script, world, "--index", kind, *options, "--out", out)
    assert outcome.code == 0, outcome.err
    if kind == "ivf":
        share = float(re.findall(r"([\d.]+)% of the 10 nearest images are found", outcome.out)[0])
        assert 50 < share < 100
    store = EmbeddingStore.load(embeddings)
    search = load_index(out, store)
    assert search.description == ("exact" if kind == "exact" else "ivf of 2, 1 probes")
    overrides = [f"data_root={world / 'photos'}", f"embeddings={embeddings}", f"index={out}"]
    overrides += ["num_neighbours=3", "context_dim=8", "image_size=16"]
    data = instantiate(load_config(MODEL, overrides=overrides).data, "data")
    row = store.files.index(data.validation.images.files[0])
    trained = set(data.train.images.files)
    near = search(store.vectors[row : row + 1], PHOTOS).indices[0].tolist()
    expected = [k for k in near if store.files[k] in trained][:3]
    assert torch.equal(data.validation[0]["neighbours"], store.vectors[expected])

    run = small_run("retrieval/rdm-768", tmp_path, "num_neighbours=3")
    query = world / "photos" / store.files[row]
    clip = ("--clip", world / "tiny.json", "--clip-weights", world / "clip.safetensors")
    given = (*clip, "--query", query, "--database", world / "photos", "--index", out)
    given += ("--steps", 1, "--per-query", 1, "--out", tmp_path / "made")
    outcome = script("retrieve2img.py", run, *given)
    assert outcome.code == 0, outcome.err
    written = json.loads((tmp_path / "made/samples.json").read_text())
    assert written["samples"][0]["neighbours"] == [store.files[k] for k in near[:2]]


def test_a_model_is_trained_on_a_folder(
    script: Script, world: Path, embeddings: Path, tmp_path: Path
) -> None:
    given = [f"data_root={world / 'photos'}", f"embeddings={embeddings}"]
    shown = ("--seconds", 0, "--num", 2, "--out", tmp_path / "data.png")
    outcome = script("show_data.py", MODEL, *given, "num_neighbours=3", "image_size=16", *shown)
    assert outcome.code == 0, outcome.err
    assert re.search(r"neighbours +float32 +\(3, 8\)", outcome.out)
    width, height = Image.open(tmp_path / "data.png").size
    assert width > 5 * height  # two images with three neighbours each
    changes = [*before(MODEL, tmp_path / "first", small=True), "model.params.scale_factor=1.0"]
    elsewhere = ("random_", "data.params.validation")
    changes += [change for change in shrunk(MODEL) if not change.startswith(elsewhere)]
    arguments = [MODEL, *given, *changes, "--runs", tmp_path]
    outcome = script("train.py", *arguments, "--dry-run")
    assert outcome.code == 0, outcome.err
    outcome = script("train.py", *arguments)
    assert outcome.code == 0, outcome.err
    model: Any = load_model(tmp_path / "rdm-768")
    assert model.conditioners[0].dim == 8


def test_model_and_recipe_name_the_same_data() -> None:
    model, recipe = (load_config(path, complete=False) for path in (MODEL, RECIPE))
    for name in ("train", "validation"):
        assert OmegaConf.to_yaml(model.data.params[name]) == OmegaConf.to_yaml(
            recipe.data.params[name]
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--cells", 4), "--cells 4 goes with --index ivf"),
        (("--index", "exact", "--probes", 4), "--probes 4 goes with --index ivf"),
        (("--out", "x"), "--out x is where an index goes: name the --index"),
        (("--threads", 0), "--threads 0: must be at least 1"),
        (("--index", "ivf", "--cells", 99), "must have 1 to 40 cells, got 99"),
        (("--clip-weights", "none.safetensors"), "none.safetensors"),
    ],
)
def test_bad_input_is_one_line(
    arguments: tuple[Any, ...], message: str, script: Script, world: Path, embeddings: Path
) -> None:
    outcome = _build(script, world, *arguments)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("error: ") == 1


def test_no_folder(script: Script, tmp_path: Path) -> None:
    outcome = script("build_index.py", tmp_path / "none")
    assert outcome.code == 2
    assert "none: no such folder" in outcome.err
