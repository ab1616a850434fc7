"""txt2img.py: prompts, what is guided away from, and what the model does not see of a prompt."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from ldm.config import load_config, save_config
from tests.scripts.small_runs import small_run

FAST = ("--steps", "3", "--per-prompt", "2", "--guidance", "3")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 8 tokens, start and end among them."""
    return small_run("text/laion-ldm-8", tmp_path_factory.mktemp("text"))


def pictures(out: Path) -> list[bytes]:
    return [file.read_bytes() for file in sorted((out / "images").iterdir())]


def test_guiding_away_from_a_prompt(script, text: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for name, options in {
        "plain": (),
        "nothing": ("--negative-prompt", ""),
        "cross": ("--negative-prompt", "a blue cross"),
    }.items():
        options = ("--prompt", "a red circle", *FAST, *options, "--out", tmp_path / name)
        assert script("txt2img.py", text, *options).code == 0
    plain = pictures(tmp_path / "plain")
    assert len(set(plain)) == 2
    assert pictures(tmp_path / "nothing") == plain  # no text is the empty text
    assert pictures(tmp_path / "cross") != plain
    record = json.loads((tmp_path / "cross" / "samples.json").read_text())
    assert record["settings"]["negative_prompt"] == "a blue cross"


def test_a_prompt_that_is_too_long(script, text: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle\n\na red circle left of a blue square\n", encoding="utf-8")
    outcome = script("txt2img.py", text, *FAST, "--prompts", prompts, "--out", tmp_path / "out")
    assert outcome.code == 0
    warnings = [line for line in outcome.err.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1
    assert "longer than the 8 tokens" in warnings[0]
    assert warnings[0].endswith("will not see its end: 'blue square'")
    record = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert [entry["prompt"] for entry in record["samples"]][1:3] == [
        "a red circle",
        "a red circle left of a blue square",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--prompt", "x", "--negative-prompt", "y"), "--negative-prompt has no effect without"),
        (("--prompt", "x", "--per-prompt", "0"), "--per-prompt 0: must be at least 1"),
        (("--validation-captions", "0"), "--validation-captions 0"),
        (("--train-captions", "0"), "--train-captions 0: must be at least 1"),
        (("--prompts", "{self}"), "not a text file"),
    ],
)
def test_bad_input(script, text: Path, tmp_path: Path, options, message: str) -> None:  # type: ignore[no-untyped-def]
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"\x89PNG\r\n\xff\xfe")
    filled = [option.format(self=picture) for option in options]
    outcome = script("txt2img.py", text, "--steps", "2", *filled, "--out", tmp_path / "out")
    assert outcome.code == 2
    assert message in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1


@pytest.fixture
def of_captions(text: Path, tmp_path: Path) -> Path:
    """The same model, with six pictures of two classes as its data."""
    for k in range(6):
        file = tmp_path / "photos" / ("ab"[k % 2]) / f"{k}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(file)
        file.with_suffix(".txt").write_text(f"a red {k}")
    config = load_config(text / "config.yaml")
    params = {"root": str(tmp_path / "photos"), "size": 8, "split": "all"}
    node = {"target": "ldm.data.ImageFolder", "params": params}
    config.data = {"params": {"train": node, "validation": node}}
    save_config(config, tmp_path / "run" / "config.yaml")
    shutil.copy(text / "model.safetensors", tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("split", "numbers"),
    [("validation", [0, 2, 4]), ("train", [0, 4, 3])],
)
def test_captions_of_the_data_with_their_classes(  # type: ignore[no-untyped-def]
    script, of_captions: Path, tmp_path: Path, split: str, numbers: list[int]
) -> None:
    options = ("--steps", "2", "--per-prompt", "1", f"--{split}-captions", "3")
    outcome = script("txt2img.py", of_captions, *options, "--out", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    samples = json.loads((tmp_path / "out" / "samples.json").read_text())["samples"]
    assert [entry["prompt"] for entry in samples] == [f"a red {k}" for k in numbers]
    assert [entry["label"] for entry in samples] == [k % 2 for k in numbers]


def test_more_captions_than_there_are(script, of_captions: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    outcome = script("txt2img.py", of_captions, "--train-captions", 7, "--out", tmp_path / "out")
    assert outcome.code == 2
    assert "--train-captions 7: the train set has 6 images" in outcome.err
