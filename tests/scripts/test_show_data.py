from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.scripts.conftest import Outcome

CONFIGS = Path(__file__).parents[2] / "configs"
Script = Callable[..., Outcome]

HEAD = """
data:
  target: ldm.training.DataModule
  params:
    batch_size: 4
"""


def config(path: Path, text: str) -> Path:
    path.write_text(HEAD + text)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for i in range(8):
        path = root / ("cat", "dog")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (24, 24, 3), np.uint8)
        Image.fromarray(pixels).save(path)
        path.with_suffix(".txt").write_text(f"number {i}")
    return root


def folder(tmp_path: Path, photos: Path) -> Path:
    return config(
        tmp_path / "folder.yaml",
        f"""
    train: {{target: ldm.data.ImageFolder, params: {{root: {photos}, size: 24}}}}
    validation: {{target: nowhere.Nothing}}
""",
    )


def test_what_it_prints_and_writes(script: Script, tmp_path: Path, photos: Path) -> None:
    (photos / "cat" / "0.png").write_bytes(b"no image")
    out = tmp_path / "out" / "data.png"
    outcome = script(
        "show_data.py",
        folder(tmp_path, photos),
        "+data.params.train.params.split=all",
        "--num",
        8,
        "--out",
        out,
        "--seconds",
        0.2,
    )
    assert outcome.code == 0, outcome.err
    assert "train data: ImageFolder, 8 items" in outcome.out
    assert re.search(r"image +float32 +\(3, 24, 24\) +-1 to 1\n", outcome.out)
    assert re.search(r"caption +text +'number \d'", outcome.out)
    assert re.search(r"class_label +int +0 to 1", outcome.out)
    assert re.search(r"left out or replaced so far: \d+ unreadable", outcome.out)
    assert re.search(r"\d\.\d images/s with 0 workers", outcome.out)
    with Image.open(out) as sheet:
        # two rows of four samples, each an image (24 pixels, five times enlarged) and its words
        assert sheet.width == 8 * (120 + 6) + 6
        assert sheet.height > 2 * 120


def test_the_same_samples_each_time(script: Script, tmp_path: Path, photos: Path) -> None:
    sheets = []
    for i, seed in enumerate((3, 3, 4)):
        out = tmp_path / f"{i}.png"
        options = ("--num", 4, "--seconds", 0, "--out", out, "--seed", seed)
        outcome = script("show_data.py", folder(tmp_path, photos), *options)
        assert "images/s" not in outcome.out
        sheets.append(out.read_bytes())
    assert sheets[0] == sheets[1] != sheets[2]


def test_conditions_are_drawn(script: Script, tmp_path: Path) -> None:
    """Scenes: boxes and maps; random data: masks, small images, tokens and vectors."""
    scenes = config(
        tmp_path / "scenes.yaml",
        """
    train: {target: ldm.data.SceneDataset, params: {resolution: 32, length: 6}}
""",
    )
    out = tmp_path / "data.png"
    outcome = script("show_data.py", scenes, "--num", 2, "--out", out, "--seconds", 0)
    assert outcome.code == 0, outcome.err
    for line in (r"boxes +float32 +\(3, 4\)", r"segmentation +int64 +\(32, 32\)"):
        assert re.search(line, outcome.out)
    with Image.open(out) as sheet:
        assert sheet.width == 8 * (224 + 6) + 6  # image, caption, boxes, map, twice
    random = config(
        tmp_path / "random.yaml",
        """
    train:
      target: ldm.data.RandomData
      params:
        length: 4
        image: {kind: pixels, size: 32}
        mask: {kind: hole, size: 32}
        lr_image: {kind: shrunk, image: image, factor: 4}
        neighbours: {kind: embeddings, shape: [3, 5]}
""",
    )
    outcome = script("show_data.py", random, "--num", 1, "--out", out, "--seconds", 0)
    assert outcome.code == 0, outcome.err
    assert re.search(r"neighbours +float32 +\(3, 5\)", outcome.out)
    with Image.open(out) as sheet:
        assert sheet.width == 3 * (128 + 6) + 6


def test_layouts(script: Script, tmp_path: Path, photos: Path) -> None:
    objects = [{"class": "cat", "box": [0.1, 0.1, 0.6, 0.9]}]
    layouts = [{"name": f"cat/{i}.png", "objects": objects} for i in (0, 2, 4)]
    (photos / "layouts.json").write_text(json.dumps({"classes": ["cat"], "layouts": layouts}))
    own = config(
        tmp_path / "boxes.yaml",
        f"""
    validation:
      target: ldm.data.LayoutImages
      params:
        source:
          target: ldm.data.JsonBoxes
          params: {{root: {photos}, layouts: {photos}/layouts.json}}
        tokens: {{target: ldm.data.BoxTokenizer, params: {{num_classes: 1}}}}
        size: 24
""",
    )
    out = tmp_path / "data.png"
    options = ("--num", 3, "--out", out, "--seconds", 0)
    outcome = script("show_data.py", own, "--split", "validation", *options)
    assert outcome.code == 0, outcome.err
    assert re.search(r"box_tokens +int64 +\(92,\)", outcome.out)
    with Image.open(out) as sheet:
        assert sheet.width == 6 * (240 + 6) + 6


def test_streams(script: Script, tmp_path: Path, photos: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for i in range(8):
            image = photos / ("cat", "dog")[i % 2] / f"{i}.png"
            tar.add(image, f"{i}.png")
            if i != 3:
                tar.add(image.with_suffix(".txt"), f"{i}.txt")
    stream = config(
        tmp_path / "stream.yaml",
        f"""
    train:
      target: ldm.data.Shards
      params:
        shards: {tmp_path}/0.tar
        framing: {{target: ldm.data.make_framing, params: {{size: 24}}}}
""",
    )
    out = tmp_path / "data.png"
    outcome = script(
        "show_data.py", stream, "--num", 8, "--out", out, "--seconds", 0.1, "--workers", 1
    )
    assert outcome.code == 0, outcome.err
    assert "train data: Shards, 8 items" in outcome.out
    assert re.search(r"so far: \d+ no caption\n", outcome.out)


def test_errors_are_one_line(script: Script, tmp_path: Path, photos: Path) -> None:
    for arguments, message in (
        ((), "give a config file"),
        ((CONFIGS / "layout" / "coco-ldm-8.yaml",), "needs data_root: give data_root=VALUE"),
        ((folder(tmp_path, photos), "--split", "validation"), "data.params.validation"),
        ((folder(tmp_path, photos), "--num", 0), "--num must be at least 1"),
        ((folder(tmp_path, photos / "x"),), "does not exist"),
    ):
        outcome = script("show_data.py", *arguments)
        assert outcome.code == 2
        assert message in outcome.err
        assert outcome.err.count("\n") == 1
    (tmp_path / "empty.yaml").write_text("name: x\n")
    assert "has no data" in script("show_data.py", tmp_path / "empty.yaml").err


def test_an_error_in_a_worker_is_one_line(script: Script, tmp_path: Path, photos: Path) -> None:
    for path in photos.rglob("*.png"):
        path.write_bytes(b"no image")
    outcome = script("show_data.py", folder(tmp_path, photos), "--workers", 1)
    assert outcome.code == 2
    last = outcome.err.strip().splitlines()[-1]
    assert last.startswith("error: folder '")
    assert "not one of 7 images is readable; the first: cannot read image" in last
