from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.scripts.small_runs import small_run

FAST = ("--steps", "3", "--batch-size", "5")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run("quickstart/text2img", tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def unconditional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run("unconditional/celebahq-ldm-4", tmp_path_factory.mktemp("uncond"))


def frames(out: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(file)).astype(int) for file in sorted((out / "images").iterdir())]


def test_through_prompts(script, text: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    story = tmp_path / "story.txt"
    story.write_text("a red circle\na blue cross\n\na green square\n")
    options = (text, "--prompts", story, "--frames", "4", *FAST)
    assert script("walk.py", *options, "--out", tmp_path / "a").code == 0
    made = frames(tmp_path / "a")
    assert len(made) == 9
    film = Image.open(tmp_path / "a" / "walk.gif")
    assert film.n_frames == 9
    record = json.loads((tmp_path / "a" / "samples.json").read_text())["samples"]
    assert [entry["weight"] for entry in record] == [0, 0.25, 0.5, 0.75] * 2 + [1.0]
    assert record[5]["from"] == {"prompt": "a blue cross", "noise": 1}
    assert record[5]["to"] == {"prompt": "a green square", "noise": 2}
    # the key frames are the images that txt2img makes of these prompts and seeds
    outcome = script("txt2img.py", text, "--prompts", story, "--per-prompt", "1", "--steps", "3",
                     "--out", tmp_path / "b")  # fmt: skip
    assert outcome.code == 0
    for key, image in zip(made[::4], frames(tmp_path / "b"), strict=True):
        assert abs(key - image).max() <= 1
    # every frame lies between its neighbours: no jumps
    steps = [abs(a - b).mean() for a, b in pairwise(made)]
    assert max(steps[:4]) < abs(made[0] - made[4]).mean()


def test_the_frames_do_not_depend_on_batches_and_a_killed_call_goes_on(
    script,
    text: Path,
    tmp_path: Path,  # type: ignore[no-untyped-def]
) -> None:
    options = (text, "--prompt", "a red circle", "--prompt", "a blue cross", "--loop")
    options += ("--frames", "3", "--steps", "3", "--guidance", "2", "--sampler", "dpm++sde")
    assert script("walk.py", *options, "--out", tmp_path / "a").code == 0
    assert len(frames(tmp_path / "a")) == 6
    assert script("walk.py", *options, "--batch-size", "2", "--out", tmp_path / "b").code == 0
    for a, b in zip(frames(tmp_path / "a"), frames(tmp_path / "b"), strict=True):
        assert abs(a - b).max() <= 1
    (tmp_path / "a" / "images" / "00004.png").unlink()
    again = script("walk.py", *options, "--out", tmp_path / "a")
    assert again.code == 0
    assert "5 of 6 images are there already" in again.out
    assert len(frames(tmp_path / "a")) == 6


def test_noise_only(script, unconditional: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    options = (unconditional, "--seeds", "4,4,9", "--frames", "2", *FAST, "--out", tmp_path)
    assert script("walk.py", *options).code == 0
    made = frames(tmp_path)
    assert len(made) == 5
    assert (made[0] == made[2]).all()
    assert (made[0] != made[4]).any()


def test_between_images(script, unconditional: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    made = script("sample.py", unconditional, "--num", "2", "--steps", "3", "--out", tmp_path / "a")
    assert made.code == 0
    files = sorted((tmp_path / "a" / "images").iterdir())
    options = ("--images", *files, "--frames", "2", "--steps", "20", "--out", tmp_path / "b")
    assert script("walk.py", unconditional, *options).code == 0
    first, middle, last = frames(tmp_path / "b")
    assert (first != last).any()
    assert (middle != first).any()
    record = json.loads((tmp_path / "b" / "samples.json").read_text())
    assert record["settings"]["sampler"]["spacing"] == "logsnr"
    assert record["samples"][0]["from"] == {"image": str(files[0])}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "a walk needs two key frames or more"),
        (("--prompt", "a red circle"), "a walk needs two key frames or more"),
        (("--prompt", "a", "--labels", "1,2"), "give key frames of one kind"),
        (("--labels", "1,two"), "--labels 1,two: give whole numbers"),
        (("--labels", "1,2"), "--label 1: "),
        (("--seeds", "1,2", "--fixed-noise"), "not with --fixed-noise"),
        (("--seeds", "1,2", "--frames", "0"), "--frames 0: must be at least 1"),
        (("--seeds", "1,2", "--film", "walk.avi"), "walk.avi: a film is a .gif or an .mp4"),
        (("--seeds", "1,2", "--fps", "0"), "0 frames per second"),
        (("--images", "a.png", "b.png", "--sampler", "plms"), "goes with --sampler ddim"),
    ],
)
def test_errors(script, text: Path, tmp_path: Path, options, message: str) -> None:  # type: ignore[no-untyped-def]
    outcome = script("walk.py", text, *options, *FAST, "--out", tmp_path / "out")
    assert outcome.code == 2
    assert message in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
