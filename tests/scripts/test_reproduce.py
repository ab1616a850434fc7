"""Recipes of published figures: what they say, and that their commands run with small models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from ldm.config import instantiate, load_config
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.load.model import inline_pretrained
from tests.experiments import CONFIGS
from tests.scripts.conftest import Outcome
from tests.scripts.small_runs import small_run

Script = Callable[..., Outcome]

RECIPES = sorted(
    file for file in (CONFIGS / "evaluation/published").glob("*.yaml") if file.name[0] != "_"
)
FEATURES = "ldm.evaluation.SceneFeatures"

# steps, eta, guidance, FID, precision, recall: PAPER tables 1 and 10, and the README of the weights
TABLES: dict[str, tuple[int, float, float, float, float, float]] = {
    "celebahq-ldm-4": (500, 0, 1, 5.11, 0.72, 0.49),
    "ffhq-ldm-4": (200, 1, 1, 4.98, 0.73, 0.50),
    "lsun-churches-ldm-8": (500, 0, 1, 4.02, 0.64, 0.52),
    "lsun-bedrooms-ldm-4": (200, 1, 1, 2.95, 0.66, 0.48),
    "cin256-ldm-8": (200, 1, 1, 15.82, 0.65, 0.63),
    "cin256-ldm-8-g": (200, 1, 1, 7.76, 0.84, 0.35),
    "cin256-ldm-4": (250, 1, 1, 10.56, 0.71, 0.62),
    "cin256-ldm-4-g-1.25": (250, 1, 1.25, 3.95, 0.81, 0.55),
    "cin256-ldm-4-g": (250, 1, 1.5, 3.60, 0.87, 0.48),
}


def recipe(path: Path) -> Any:
    return load_config(path, complete=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run("class/cin256-v2", tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    generator = torch.Generator().manual_seed(0)
    for k in range(8):
        pixels = torch.randint(256, (32, 32, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / f"{k}.png")
    return folder


# -- what they say ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", TABLES)
def test_row_of_the_paper(name: str) -> None:
    found = recipe(CONFIGS / f"evaluation/published/{name}.yaml")
    sampling, expected = found.sampling, found.expected["ldm-paper"]
    assert (sampling.steps, sampling.eta, sampling.get("guidance", 1), expected.fid) == (
        TABLES[name][:4]
    )
    assert (expected.precision, expected.recall) == TABLES[name][4:]
    assert sampling.num_images == 50000
    assert sampling.get("labels") == ("uniform" if name.startswith("cin256") else None)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_model_can_be_built_without_any_run(path: Path) -> None:
    found = recipe(path)
    stage = CONFIGS / f"{found.first_stage}.yaml"
    config = load_config(
        CONFIGS / f"{found.config}.yaml", overrides=[f"first_stage={stage}"], complete=False
    )
    with torch.device("meta"):
        model = instantiate(inline_pretrained(config).model, "model")
    assert isinstance(model, LatentDiffusion)
    assert config.image_size


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_presets_and_scripts_exist(path: Path) -> None:
    found = recipe(path)
    for preset in {found.preset, *found.expected} - {"task"}:
        assert (CONFIGS / f"evaluation/{preset}.yaml").is_file(), preset
    assert (CONFIGS.parent / "scripts" / found.script).is_file()
    assert any(
        value is not None for part in found.expected.values() if part for value in part.values()
    )


# -- the commands -----------------------------------------------------------------------------


def test_without_a_name_they_are_listed(script: Script) -> None:
    outcome = script("reproduce.py")
    assert outcome.code == 0
    assert [line.split()[0] for line in outcome.out.splitlines()] == sorted(f.stem for f in RECIPES)


def test_the_commands_of_a_checkpoint_file(script: Script) -> None:
    outcome = script(
        "reproduce.py", "cin256-ldm-8-g", "--checkpoint", "cin256.ckpt", "--real", "batch.npz",
        "--preset", "adm", "sampling.classifier=runs/mine", "--dry-run",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    _, sample, evaluate = outcome.out.splitlines()
    assert "sample.py cin256.ckpt --config " in sample
    assert "class/cin256.yaml first_stage=" in sample
    for option in (
        *("--num-images 50000", "--steps 200", "--eta 1.0", "--labels uniform"),
        *("--classifier runs/mine", "--classifier-scale 10.0", "--sampler ddim"),
    ):
        assert option in sample
    assert "evaluate.py reproduced-cin256-ldm-8-g --real batch.npz --preset adm" in evaluate


def test_a_run_describes_its_model_itself(script: Script) -> None:
    outcome = script(
        "reproduce.py", "ffhq-ldm-4", "--checkpoint", "runs/mine", "--real", "a.yaml#train",
        "--weights", "inception=a.pth", "--dry-run",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    _, sample, evaluate = outcome.out.splitlines()
    assert "sample.py runs/mine --num-images 50000" in sample
    assert "--preset ldm-paper --weights inception=a.pth" in evaluate


def test_a_small_model_is_sampled_measured_and_compared(
    script: Script, run: Path, real: Path, tmp_path: Path
) -> None:
    weights = run / "model.safetensors"
    out = tmp_path / "out"
    outcome = script(
        "reproduce.py", "cin256-ldm-4-g", "--checkpoint", weights, "--real", real, "--num", 8,
        "--preset", "laptop", "--features", FEATURES, "--device", "cpu", "--out", out,
        "sampling.steps=2", "--config", run / "config.yaml", "--num-real", 7,
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    settings = json.loads((out / "samples.json").read_text())["settings"]
    assert settings["sampler"]["eta"] == 1
    assert settings["guidance"] == 1.5
    report = json.loads((out / "metrics.json").read_text())
    assert {entry["name"] for entry in report["measurements"]} >= {"fd", "precision", "recall"}
    found = json.loads((out / "reproduction.json").read_text())
    figures = {figure["name"]: figure for figure in found["figures"]}
    assert figures["fid"]["measured"] is None  # an fd of other features is no FID
    precision = next(e["value"] for e in report["measurements"] if e["name"] == "precision")
    assert figures["precision"]["measured"] == precision
    assert figures["precision"]["expected"] == 0.87
    text = " ".join(found["deviations"])
    assert "num_images: 8 instead of 50000" in text
    assert "steps: 2 instead of 250" in text
    assert "laptop" in text
    assert f"features: {FEATURES} instead of those of the preset" in text
    assert "real images: the first 7" in text
    assert f"config: {run / 'config.yaml'} instead of class/cin256-v2" in text
    assert "not as published: steps: 2 instead of 250" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no-such"], "no-such: no such recipe; there are"),
        (["_recipe"], "no such recipe"),
        (["ffhq-ldm-4"], "--checkpoint"),
        (["ffhq-ldm-4", "--checkpoint", "a.ckpt"], "--real"),
        (["cin256-ldm-8-g", "--checkpoint", "a.ckpt", "--real", "b"], "sampling.classifier=VALUE"),
        (["places-big", "--num", "8", "sampling.inputs=x"], "--num 8"),
        (["ffhq-ldm-4", "expected={}"], "only preset and sampling.KEY"),
        (["ffhq-ldm-4", "steps"], "KEY=VALUE"),
        (["ffhq-ldm-4", "--checkpoint", "a.ckpt", "--real", "no-such-folder"], "no-such-folder"),
        (["ffhq-ldm-4", "--checkpoint", "a", "--real", "b", "--preset", "mine"], "mine"),
    ],
)
def test_what_cannot_be_done_is_one_line_before_anything_is_sampled(
    arguments: list[str],
    words: str,
    script: Script,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = script("reproduce.py", *arguments, "--device", "cpu")
    assert outcome.code == 2
    assert words in outcome.err
    assert outcome.err.strip().count("\n") == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("sampling.stesp=3", "--stesp"),
        ("sampling.steps=abc", "--steps"),
        ("preset=nope", "no such protocol"),
    ],
)
def test_a_dry_run_refuses_what_no_script_knows(
    change: str, message: str, script: Script, run: Path, real: Path
) -> None:
    ask = ("reproduce.py", "cin256-ldm-4", "--checkpoint", run, "--real", real, "--dry-run")
    outcome = script(*ask, change)
    assert outcome.code == 2
    assert message in outcome.err
