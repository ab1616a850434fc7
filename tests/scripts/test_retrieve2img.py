from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ldm.conditioners.tokenizers import ClipTokenizer
from ldm.load.model import load_model
from ldm.samplers.ddim import DDIM
from ldm.samplers.noise import SeededNoise
from tests.conditioners.clips import OPEN, write_clip
from tests.scripts.conftest import Outcome
from tests.scripts.small_runs import small_run

Script = Callable[..., Outcome]

ARCH = {**OPEN, "embed_dim": 8}
SIDE = 8
PROMPT = "a red house"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that attends to up to 3 embeddings of width 8."""
    root = tmp_path_factory.mktemp("retrieval")
    return small_run("retrieval/rdm-768", root, "num_neighbours=3")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, open_clip.CLIP]:
    """A CLIP model, files of it, and a folder of images of the size that it sees."""
    root = tmp_path_factory.mktemp("world")
    model = write_clip(root, ARCH)
    noise = np.random.default_rng(0)
    (root / "photos").mkdir()
    for k in range(6):
        pixels = noise.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        Image.fromarray(pixels).save(root / "photos" / f"{k}.png")
    return root, model


def _call(script: Script, run: Path, root: Path, *arguments: object) -> Outcome:
    clip = ("--clip", root / "tiny.json", "--clip-weights", root / "clip.safetensors")
    return script("retrieve2img.py", run, *clip, "--steps", 3, "--per-query", 1, *arguments)


@torch.no_grad()
def _by_open_clip(root: Path, model: open_clip.CLIP) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings of the folder (6, D) and of the prompt (1, D)."""
    prepare = open_clip.image_transform(SIDE, is_train=False)
    files = sorted((root / "photos").iterdir())
    pixels = torch.stack([prepare(Image.open(file)) for file in files])
    ids = ClipTokenizer(8, pad="zero")([PROMPT])
    return model.encode_image(pixels, normalize=True), model.encode_text(ids, normalize=True)


def _pixels(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)


def test_an_unreadable_query_is_left_out(
    script: Script, run: Path, world: tuple[Path, Any], tmp_path: Path
) -> None:
    root, bad = world[0], tmp_path / "bad.png"
    bad.write_bytes(b"?")
    queries = ("--query", bad, "--query", root / "photos/1.png")
    outcome = _call(script, run, root, "--prompt", PROMPT, *queries, "--out", tmp_path / "out")
    assert outcome.code == 4, outcome.err
    record = json.loads((tmp_path / "out/samples.json").read_text())["samples"]
    assert [entry["seed"] for entry in record] == [0, 2]
    assert [entry["file"] for entry in record] == ["images/00000.png", "images/00002.png"]
    assert (tmp_path / "out/neighbours.png").is_file()
    outcome = _call(script, run, root, "--query", bad, "--out", tmp_path / "none")
    assert outcome.code == 2
    assert "bad.png" in outcome.err


@pytest.mark.parametrize("own", [True, False])
def test_the_model_sees_the_query_and_its_neighbours(
    own: bool, script: Script, run: Path, world: tuple[Path, Any], tmp_path: Path
) -> None:
    root, clip = world
    options = () if own else ("--no-query-embedding", "--neighbours", 2)
    database = ("--database", root / "photos", "--embeddings", tmp_path / "kept.safetensors")
    out = tmp_path / "out"
    queries = ("--prompt", PROMPT, "--query", root / "photos" / "4.png")
    outcome = _call(script, run, root, *queries, *database, *options, "--out", out)
    assert outcome.code == 0, outcome.err
    images, text = _by_open_clip(root, clip)
    vectors = torch.cat([text, images[4:5]])
    near = (vectors @ images.T).argsort(dim=1, descending=True)[:, :2]
    assert near[1, 0] == 4
    seen = images[near]
    if own:
        seen = torch.cat([vectors[:, None], seen], dim=1)
    model: Any = load_model(run)
    size = tuple(_pixels(out / "images/00000.png").shape[1:])
    expected = model.sample({"neighbours": seen}, size, DDIM(steps=3), SeededNoise([0, 1]))
    expected = (expected.clamp(-1, 1) + 1) * 127.5
    for k in range(2):
        assert (_pixels(out / f"images/{k:05d}.png") - expected[k]).abs().max() < 0.6
    samples = json.loads((out / "samples.json").read_text())["samples"]
    assert [entry["neighbours"] for entry in samples] == [[f"{i}.png" for i in r] for r in near]
    width, _ = Image.open(out / "neighbours.png").size
    assert width == 4 * (size[1] + 6) + 6


def test_without_a_database_the_query_is_all(
    script: Script, run: Path, world: tuple[Path, Any], tmp_path: Path
) -> None:
    root, clip = world
    prompt = ("--prompt", PROMPT, "--guidance", 3)
    outcome = _call(script, run, root, *prompt, "--out", tmp_path)
    assert outcome.code == 0, outcome.err
    _, text = _by_open_clip(root, clip)
    model: Any = load_model(run)
    size = tuple(_pixels(tmp_path / "images/00000.png").shape[1:])
    image = model.sample({"neighbours": text[:, None]}, size, DDIM(steps=3), SeededNoise([0]), 3.0)
    expected = (image[0].clamp(-1, 1) + 1) * 127.5
    assert (_pixels(tmp_path / "images/00000.png") - expected).abs().max() < 0.6


def test_the_folder_is_embedded_once_and_its_file_is_a_database(
    script: Script, run: Path, world: tuple[Path, Any], tmp_path: Path
) -> None:
    root, _ = world
    folder = ("--prompt", PROMPT, "--database", root / "photos")
    kept = root / "photos.tiny.safetensors"
    outcome = _call(script, run, root, *folder, "--out", tmp_path / "a")
    assert outcome.code == 0, outcome.err
    assert "6 embeddings kept" in outcome.out
    before = kept.stat().st_mtime_ns
    outcome = _call(script, run, root, *folder, "--out", tmp_path / "b")
    assert "embeddings kept" not in outcome.out
    assert kept.stat().st_mtime_ns == before
    file = ("--prompt", PROMPT, "--database", kept)
    assert _call(script, run, root, *file, "--out", tmp_path / "c").code == 0
    picture = (tmp_path / "a/images/00000.png").read_bytes()
    for name in "bc":
        assert (tmp_path / name / "images/00000.png").read_bytes() == picture

    Image.new("RGB", (9, 9)).save(root / "photos" / "new.png")
    outcome = _call(script, run, root, *folder, "--out", tmp_path / "d")
    (root / "photos" / "new.png").unlink()
    assert outcome.code == 2
    assert "(new.png is new): delete the file" in outcome.err
    other = {name: value * 1.5 for name, value in open_clip.CLIP(**ARCH).state_dict().items()}
    save_file(other, tmp_path / "other.safetensors")
    weights = ("--clip-weights", tmp_path / "other.safetensors")
    outcome = _call(script, run, root, *folder, *weights, "--out", tmp_path / "d")
    assert outcome.code == 2
    assert "photos.tiny.safetensors were made by tiny weights" in outcome.err
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing to look for"),
        (("--prompt", "a", "--neighbours", 2), "--neighbours 2: name the --database"),
        (("--prompt", "a", "--no-query-embedding"), "nothing is left to attend to"),
        (("--prompt", "a", "--database", "none"), "--database none: no such folder or file"),
        (
            ("--prompt", "a", "--database", "PHOTOS", "--neighbours", 3),
            "the model takes 3 embeddings, one is that of the query, give at most 2",
        ),
        (("--query", "none.png"), "none.png"),
        (("--prompt", "a", "--clip-weights", "none.safetensors"), "none.safetensors"),
        (("--prompt", "a", "--clip", "none.json"), "--clip none.json: cannot be read"),
    ],
)
def test_bad_input_is_one_line(
    arguments: tuple[Any, ...],
    message: str,
    script: Script,
    run: Path,
    world: tuple[Path, Any],
    tmp_path: Path,
) -> None:
    given = [world[0] / "photos" if a == "PHOTOS" else a for a in arguments]
    outcome = _call(script, run, world[0], *given, "--out", tmp_path / "out")
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("error: ") == 1
    assert not (tmp_path / "out").exists()


def test_embeddings_of_another_width(
    script: Script, run: Path, world: tuple[Path, Any], tmp_path: Path
) -> None:
    (tmp_path / "six.json").write_text(json.dumps(OPEN))
    save_file(open_clip.CLIP(**OPEN).state_dict(), tmp_path / "six.safetensors")
    clip = ("--clip", tmp_path / "six.json", "--clip-weights", tmp_path / "six.safetensors")
    outcome = _call(script, run, world[0], "--prompt", "a", *clip, "--out", tmp_path / "out")
    assert outcome.code == 2
    assert "gives embeddings of width 6, the model was trained with 8" in outcome.err
