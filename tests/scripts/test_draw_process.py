from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from ldm.load.model import load_model
from ldm.samplers.ddim import DDIM
from ldm.samplers.noise import SeededNoise
from tests.scripts.conftest import Outcome
from tests.scripts.small_runs import small_run

CELL = 128 + 6  # 64 pixels, twice

Script = Callable[..., Outcome]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run("text/laion-ldm-8", tmp_path_factory.mktemp("text"))


def _cell(picture: np.ndarray, row: int, column: int) -> torch.Tensor:
    """The pixels (3, 64, 64) of a cell below the heads and its title."""
    top, left = 6 + 34 + row * (CELL + 17) + 17, 6 + column * CELL
    return torch.from_numpy(picture[top : top + 128 : 2, left : left + 128 : 2]).permute(2, 0, 1)


def _bytes(image: torch.Tensor) -> torch.Tensor:
    return (image.clamp(-1, 1) + 1) * 127.5


def _assert_shown(picture: np.ndarray, row: int, column: int, image: torch.Tensor) -> None:
    difference = (_cell(picture, row, column) - _bytes(image)[0]).abs()
    assert difference.max() < 0.6, (row, column)


def test_rows_are_the_two_processes(script: Script, text: Path, tmp_path: Path) -> None:
    options = ("--prompt", "a red circle", "--guidance", 2, "--steps", 6, "--columns", 3)
    more = ("--rows", 2, "--seed", 4, "--out", tmp_path, "--batch-size", 3)
    outcome = script("draw_process.py", text, *options, *more)
    assert outcome.code == 0, outcome.err
    picture = np.array(Image.open(tmp_path / "process.png"))
    assert picture.shape == (5 * (CELL + 17) + 34 + 6, 4 * CELL + 6, 3)

    model: Any = load_model(text)
    tokens = model.conditioners[0].tokenizer(["a red circle"] * 2)
    sampler = DDIM(steps=6)
    noise = SeededNoise([4, 5])
    x = noise(torch.empty(model.latent_shape(2, (64, 64))))
    states, estimates = [], []
    with torch.no_grad():
        denoise = model.conditional_denoise({"tokens": tokens}, 2.0)
        for step in sampler(denoise, x, model.schedule, noise):
            states.append(x)
            estimates.append(step.x0)
            x = step.x
        for column, index in enumerate((0, 2, 5)):
            for k in range(2):
                state, guess = states[index][k : k + 1], estimates[index][k : k + 1]
                _assert_shown(picture, 1 + 2 * k, column, model.decode(state))
                _assert_shown(picture, 2 + 2 * k, column, model.decode(guess))
        for row in (1, 2):
            _assert_shown(picture, row, 3, model.decode(x[:1]))

    about = json.loads((tmp_path / "process.json").read_text())
    assert about["times"] == sampler.times(model.schedule)[[0, 2, 5]].tolist()
    expected = [float(model.schedule.snr(torch.tensor(t)).log()) for t in about["times"]]
    assert about["log_snr"] == pytest.approx(expected, rel=1e-4)
    assert about["image"] == "the first validation image"


def test_an_image_disappears(script: Script, text: Path, tmp_path: Path) -> None:
    Image.new("RGB", (40, 20), (200, 10, 10)).save(tmp_path / "red.png")
    options = ("--image", tmp_path / "red.png", "--steps", 2, "--out", tmp_path)
    outcome = script("draw_process.py", text, *options)
    assert outcome.code == 0, outcome.err
    model: Any = load_model(text)
    image = torch.tensor([200.0, 10, 10]).div(127.5).sub(1).view(1, 3, 1, 1).expand(1, 3, 64, 64)
    z = model.encode(image, torch.Generator().manual_seed(0))
    times = DDIM(steps=2).times(model.schedule)
    noise = SeededNoise([0])(z)
    noisy = model.schedule.add_noise(z, noise, times[1:])
    picture = np.array(Image.open(tmp_path / "process.png"))
    with torch.no_grad():
        for column, state in ((1, noisy), (2, z)):
            _assert_shown(picture, 0, column, model.decode(state))


@pytest.mark.parametrize(
    "name", ["layout/coco-ldm-8", "semantic/landscapes-256", "inpainting/places-ldm-4-kl"]
)
def test_other_conditions_come_from_the_validation_data(
    name: str, script: Script, tmp_path: Path
) -> None:
    run = small_run(name, tmp_path)
    outcome = script("draw_process.py", run, "--steps", 3, "--out", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "out" / "process.png").exists()


def test_a_class_label_and_bad_ones(script: Script, tmp_path: Path) -> None:
    run = small_run("class/cin256-v2", tmp_path)
    out = ("--steps", 2, "--out", tmp_path / "out")
    assert script("draw_process.py", run, "--label", 1, *out).code == 0
    outcome = script("draw_process.py", run, "--label", 7, *out)
    assert outcome.code == 2
    assert "7" in outcome.err
    outcome = script("draw_process.py", run, "--prompt", "a cat", *out)
    assert outcome.code == 2
    assert "--prompt: " in outcome.err


def test_data_that_is_gone(script: Script, text: Path, tmp_path: Path) -> None:
    config = OmegaConf.load(text / "config.yaml")
    del config["data"]
    OmegaConf.save(config, tmp_path / "model.yaml")
    source = (text / "model.safetensors", "--config", tmp_path / "model.yaml")
    out = ("--steps", 2, "--out", tmp_path / "out")
    outcome = script("draw_process.py", *source, "--prompt", "a red circle", *out)
    assert outcome.code == 0, outcome.err
    about = json.loads((tmp_path / "out" / "process.json").read_text())
    assert about["image"] == "the sample with seed 0"
    outcome = script("draw_process.py", *source, *out)
    assert outcome.code == 2
    assert "needs 'tokens'" in outcome.err
    assert outcome.err.count("error: ") == 1
    outcome = script("draw_process.py", *source, "--columns", 0, *out)
    assert "--columns 0: must be at least 1" in outcome.err
