from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

QUICK = ("--points", "120", "--steps", "4", "--set", "trainer.max_steps=3",
         "data.params.train.params.length=2048", "data.params.validation.params.length=512",
         "model.params.denoiser.params.dim=16")  # fmt: skip


def test_two_silhouettes(script, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    out = tmp_path / "toy"
    outcome = script("toy.py", "--out", out, *QUICK)
    assert outcome.code == 0, outcome.err
    assert "cat: " in outcome.out
    assert "rocket: " in outcome.out
    film = Image.open(out / "animation.gif")
    assert film.n_frames == 5  # the noise and four updates
    assert Image.open(out / "process.png").height > 300
    assert json.loads((out / "status.json").read_text())["state"] == "complete"
    assert not (out / "samples").exists()  # points are no images
    again = script("toy.py", "--out", out, "--sampler", "ddim", "--guidance", "2", *QUICK)
    assert again.code == 0, again.err
    assert "complete" in again.out  # nothing is trained again


def test_a_long_film_leaves_states_out(script, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    quick = [item for item in QUICK if item not in ("--steps", "4")]
    short = "model.params.schedule.params.timesteps=150"
    outcome = script("toy.py", "--out", tmp_path / "toy", "--sampler", "ddpm", *quick, short)
    assert outcome.code == 0, outcome.err
    assert Image.open(tmp_path / "toy" / "animation.gif").n_frames == 100  # of 151


def test_a_picture_of_ones_own(script, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    pixels = np.full((40, 40), 255, np.uint8)
    pixels[10:30, 10:30] = 0
    Image.fromarray(pixels).save(tmp_path / "square.png")
    outcome = script("toy.py", "--image", tmp_path / "square.png", "--out", tmp_path / "o", *QUICK)
    assert outcome.code == 0, outcome.err
    assert "square: " in outcome.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--image", "nowhere.png"), "nowhere.png: no image file"),
        (("--points", "3"), "--points 3: give at least 100"),
        (("--film", "toy.avi"), "toy.avi: a film is a .gif or an .mp4"),
        (("--steps", "0"), "0 sampling steps"),
        (("--set", "max_steps"), "--set max_steps: give KEY=VALUE"),
    ],
)
def test_errors(script, tmp_path: Path, options, message: str) -> None:  # type: ignore[no-untyped-def]
    outcome = script("toy.py", "--out", tmp_path / "toy", *options)
    assert outcome.code == 2
    assert message in outcome.err
    assert not (tmp_path / "toy").exists()
