from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.cli.images import result_files
from ldm.data.layouts.boxes import Box, BoxTokenizer
from ldm.data.layouts.reading import Layout
from ldm.load.model import load_model
from ldm.programs.sampling.layout2img import file_names
from ldm.samplers.ddim import DDIM
from ldm.samplers.noise import SeededNoise
from tests.scripts.conftest import Outcome
from tests.scripts.small_runs import small_run

Script = Callable[..., Outcome]

CAT = {"class": "cat", "box": [0.3, 0.4, 0.6, 0.8]}
LAYOUTS = {
    "classes": ["cat", "sofa"],
    "layouts": [
        {"name": "evening", "objects": [CAT, {"class": 1, "box": [0, 0.5, 1, 1], "group": True}]},
        {"name": "a/b", "objects": [CAT], "crop": [0, 0, 0.75, 1]},
    ],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run("layout/coco-ldm-8", tmp_path_factory.mktemp("layout"))


def _file(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(content))
    return path


def _pixels(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)


@pytest.mark.parametrize("names", [["x" * 400, "x" * 400 + "y"], ["a", "A"], ["日" * 99, "\ud800"]])
def test_names_of_any_length_and_kind(names: list[str]) -> None:
    layouts = [Layout(name, ()) for name in names]
    files = [f for name in file_names(layouts) for f in result_files(name, 2, numbered=True)]
    assert len({file.casefold() for file in files}) == 4
    assert max(len(Path(file).name.encode()) for file in files) <= 255


def test_images_are_those_of_the_tokens(script: Script, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--steps", 3, "--per-layout", 2, "--seed", 5, "--batch-size", 3, "--out", out)
    outcome = script("layout2img.py", run, _file(tmp_path, LAYOUTS), *options)
    assert outcome.code == 0, outcome.err
    names = ["evening_0.png", "evening_1.png", "a_b_0.png", "a_b_1.png"]
    assert sorted(path.name for path in (out / "images").iterdir()) == sorted(names)
    tokenizer = BoxTokenizer(2)
    cat = Box(0, 0.3, 0.4, 0.6, 0.8)
    both = tokenizer([cat, Box(1, 0, 0.5, 1, 1, group=True)])
    tokens = torch.stack([both, both, *[tokenizer([cat], crop=(0, 0, 0.75, 1))] * 2])
    model: Any = load_model(run)
    noise = SeededNoise([5, 6, 7, 8])
    expected = model.sample({"box_tokens": tokens}, (32, 32), DDIM(steps=3), noise)
    expected = (expected.clamp(-1, 1) + 1) * 127.5
    for name, image in zip(names, expected, strict=True):
        assert (_pixels(out / "images" / name) - image).abs().max() < 0.51, name
    record = json.loads((out / "samples.json").read_text())
    assert record["settings"]["box_tokens"]["classes"] == ["cat", "sofa"]
    assert record["samples"][2]["layout"] == "a/b"
    assert record["samples"][2]["crop"] == [0, 0, 0.75, 1]
    # drawn at seven times the 32 pixels, which is 224, in two rows with titles
    assert Image.open(out / "layouts.png").size == (3 * 230 + 6, 2 * (230 + 17) + 6)


def test_a_changed_layout_does_not_mix_with_the_old_images(
    script: Script, run: Path, tmp_path: Path
) -> None:
    options = ("--steps", 1, "--per-layout", 1, "--out", tmp_path / "out")
    assert script("layout2img.py", run, _file(tmp_path, LAYOUTS), *options).code == 0
    moved = json.loads(json.dumps(LAYOUTS).replace("0.3", "0.2"))
    outcome = script("layout2img.py", run, _file(tmp_path, moved), *options)
    assert outcome.code == 2
    assert "holds images made with other settings" in outcome.err


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ([{"objects": [{**CAT, "class": 3}]}], (), "unknown class id 3, it must be 0 to 1"),
        ([{"objects": [{**CAT, "class": 3}]}], ("--num-classes", 3), "unknown class id 3"),
        (LAYOUTS, ("--num-classes", 3), "2 class names, but the model was trained with 3"),
        ([{"objects": [CAT] * 31}], ("--num-classes", 3), "list them as 'classes'"),
        ([{"objects": [{**CAT, "class": 0}] * 31}], ("--num-classes", 3), "takes at most 30"),
        (LAYOUTS["layouts"], ("--classes", "NAMES"), "unknown class 'cat', none of 600 names"),
        (
            [{"objects": [{**CAT, "class": 0, "group": True}]}],
            ("--classes", "NAMES"),
            "600 class names, but the model was trained with 2 classes",
        ),
        (LAYOUTS, ("--per-layout", 0), "--per-layout 0"),
        (LAYOUTS, ("--num-classes", 0), "--num-classes 0"),
    ],
)
def test_bad_input_is_one_line(
    content: Any, options: tuple[Any, ...], message: str, script: Script, run: Path, tmp_path: Path
) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"class {k}" for k in range(600)))
    options = tuple(names if option == "NAMES" else option for option in options)
    out = tmp_path / "out"
    outcome = script("layout2img.py", run, _file(tmp_path, content), *options, "--out", out)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("error: ") == 1
    assert not out.exists()
