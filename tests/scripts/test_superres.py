from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.load.model import load_model
from ldm.samplers.ddim import DDIM
from ldm.samplers.noise import SeededNoise
from tests.scripts.small_runs import small_run


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run("super_resolution/imagenet-ldm-4", tmp_path_factory.mktemp("sr"))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for name, height, width in (("a", 16, 8), ("b", 13, 9)):
        pixels = noise.integers(0, 255, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{name}.png")
    return tmp_path / "in"


def test_four_times_as_large(script, model, images, tmp_path) -> None:  # type: ignore[no-untyped-def]
    out = tmp_path / "out"
    done = script("superres.py", model, images, "--steps", "3", "--out", out)
    assert done.code == 0, done.err
    sizes = {file.stem: Image.open(file).size for file in (out / "images").iterdir()}
    assert sizes == {"a": (32, 64), "b": (36, 52)}
    assert (out / "enlarged.png").exists()
    # the library by hand
    loaded = load_model(model)
    pixels = torch.from_numpy(np.array(Image.open(images / "a.png"))).permute(2, 0, 1)[None]
    batch = {"lr_image": pixels.float() / 127.5 - 1}
    want = loaded.sample(batch, (64, 32), DDIM(3), SeededNoise([0]))
    got = np.asarray(Image.open(out / "images" / "a.png")).astype(float) / 127.5 - 1
    difference = got - want[0].clamp(-1, 1).permute(1, 2, 0).numpy()
    assert abs(difference).max() < 1.01 / 127.5


def test_the_image_decides(script, model, images, tmp_path) -> None:  # type: ignore[no-untyped-def]
    made = []
    for attempt in range(2):
        out = tmp_path / str(attempt)
        options = ("--steps", "3", "--tile", "8", "--tile-overlap", "4", "--out", out)
        assert script("superres.py", model, images / "a.png", *options).code == 0
        made.append(np.asarray(Image.open(out / "images" / "a.png")))
        Image.new("RGB", (8, 16), (200, 30, 90)).save(images / "a.png")
    assert (made[0] != made[1]).any()


def test_errors(script, model, images, tmp_path) -> None:  # type: ignore[no-untyped-def]
    def refused(*arguments: object) -> str:
        outcome = script("superres.py", *arguments, "--steps", "2", "--out", tmp_path / "out")
        assert outcome.code == 2
        return outcome.err.strip()

    other = small_run("unconditional/celebahq-ldm-4", tmp_path)
    assert "is no super-resolution model: it does not take 'lr_image'" in refused(other, images)
    assert "nowhere.png: no such image or folder" in refused(model, tmp_path / "nowhere.png")
    assert "--per-image 0: must be at least 1" in refused(model, images, "--per-image", "0")
    (images / "c.png").write_bytes(b"not a picture")
    assert "c.png" in refused(model, images / "c.png")


def test_the_unreadable_is_left_out(script, model, images, tmp_path) -> None:  # type: ignore[no-untyped-def]
    (images / "aa.png").write_bytes(b"not a picture")
    options = ("--steps", "2", "--per-image", "2", "--out", tmp_path / "out")
    done = script("superres.py", model, images, *options)
    assert done.code == 4
    assert "left out: cannot read image" in done.err
    assert "error: 1 of 3 inputs could not be read" in done.err
    samples = json.loads((tmp_path / "out/samples.json").read_text())["samples"]
    assert [entry["file"] for entry in samples] == [
        f"images/{n}.png" for n in ("a_0", "a_1", "b_0", "b_1")
    ]
    assert [entry["seed"] for entry in samples] == [0, 1, 4, 5]  # as if it could be read
