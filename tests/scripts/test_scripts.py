"""The scripts as a user types them: what they write, and one clear line for bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from ldm.programs.training.train import _summary
from ldm.training.run import train
from ldm.training.run_folder import RunFolder
from tests.scripts.conftest import Outcome
from tests.training import tiny

ROOT = Path(__file__).parents[2]
VOCAB = ROOT / "data" / "scenes" / "vocab.txt"

Script = Callable[..., Outcome]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a trained first stage, text model and feature network."""
    root = tmp_path_factory.mktemp("runs")
    train(tiny.autoencoder(), RunFolder(root / "ae"))
    train(tiny.text2img(root / "ae", VOCAB), RunFolder(root / "text"))
    train(tiny.features(), RunFolder(root / "features"))
    return root


def _write(config: DictConfig, path: Path) -> Path:
    path.write_text(OmegaConf.to_yaml(config))
    return path


def _assert_one_line(outcome: Outcome, *parts: str) -> None:
    assert outcome.code == 2
    lines = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "Traceback" not in outcome.err
    for part in parts:
        assert part in lines[0], f"{part!r} is not in {lines[0]!r}"


# -- train.py --------------------------------------------------------------------------------


def test_train_starts_and_resumes(script: Script, tmp_path: Path) -> None:
    config = _write(tiny.autoencoder(trainer={"max_steps": 1}), tmp_path / "config.yaml")
    outcome = script("train.py", config, "--runs", tmp_path, "name=mine", "seed=3")
    assert outcome.code == 0
    run = tmp_path / "mine"
    assert OmegaConf.load(run / "config.yaml").seed == 3
    outcome = script("train.py", "--resume", run, "trainer.max_steps=2")
    assert outcome.code == 0
    assert json.loads((run / "status.json").read_text())["step"] == 2


def test_train_names_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run of a few steps has no curves."""
    folder = RunFolder(tmp_path)
    folder.checkpoints.mkdir()
    folder.config.write_text("")
    for drawn in (False, True):
        if drawn:
            folder.curves.write_bytes(b"")
        _summary(folder)
        assert ("curves.png" in capsys.readouterr().out) is drawn


def test_dry_run_counts_parameters_and_writes_nothing(script: Script, tmp_path: Path) -> None:
    config = _write(tiny.autoencoder(), tmp_path / "config.yaml")
    outcome = script("train.py", config, "--dry-run", "--runs", tmp_path)
    assert outcome.code == 0
    assert "decoder" in outcome.out
    assert "training set     32 items" in outcome.out
    assert [p.name for p in tmp_path.iterdir()] == ["config.yaml"]


def test_unknown_key(script: Script, tmp_path: Path) -> None:
    config = tiny.autoencoder()
    config.model.params.architecture.params.chanels = 4
    outcome = script("train.py", _write(config, tmp_path / "c.yaml"), "--runs", tmp_path)
    _assert_one_line(
        outcome, "model.params.architecture.params.chanels", "did you mean", "channels"
    )


def test_missing_target(script: Script, tmp_path: Path) -> None:
    config = tiny.autoencoder()
    config.model.target = "ldm.autoencoders.kl.AutoencoderKLL"
    outcome = script("train.py", _write(config, tmp_path / "c.yaml"), "--runs", tmp_path)
    _assert_one_line(outcome, "model", "AutoencoderKLL")


def test_missing_data_folder(script: Script, tmp_path: Path) -> None:
    config = tiny.autoencoder()
    config.data.params.train = {
        "target": "ldm.data.ImageFolder",
        "params": {"root": str(tmp_path / "photos"), "size": 16},
    }
    outcome = script("train.py", _write(config, tmp_path / "c.yaml"), "--runs", tmp_path)
    _assert_one_line(outcome, "data.params.train", "photos")


def test_missing_first_stage(script: Script, tmp_path: Path) -> None:
    config = tiny.text2img(tmp_path / "nowhere", VOCAB)
    outcome = script("train.py", _write(config, tmp_path / "c.yaml"), "--runs", tmp_path)
    _assert_one_line(outcome, "nowhere", "train it first")


def test_incompatible_first_stage(script: Script, runs: Path, tmp_path: Path) -> None:
    config = tiny.text2img(runs / "ae", VOCAB)
    checkpoint = runs / "text" / "checkpoints" / "last.ckpt"
    config.model.params.autoencoder.params.checkpoint = str(checkpoint)
    config.model.params.autoencoder.params.path = str(runs / "features")
    outcome = script("train.py", _write(config, tmp_path / "c.yaml"), "--runs", tmp_path)
    _assert_one_line(outcome, "model.params.autoencoder", str(checkpoint), "missing")


def test_incompatible_resume(script: Script, runs: Path) -> None:
    before = (runs / "ae" / "config.yaml").read_bytes()
    outcome = script(
        "train.py",
        "--resume",
        runs / "ae",
        "model.params.architecture.params.channels=16",
        "trainer.max_steps=9",
    )
    _assert_one_line(outcome, "last.ckpt", "does not fit")
    assert (runs / "ae" / "config.yaml").read_bytes() == before


def test_damaged_checkpoint(script: Script, runs: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.ckpt"
    damaged.write_bytes((runs / "text" / "checkpoints" / "last.ckpt").read_bytes()[:5000])
    outcome = script(
        "txt2img.py", runs / "text", "--prompt", "a red circle", "--checkpoint", damaged
    )
    _assert_one_line(outcome, str(damaged))


@pytest.mark.parametrize("arguments", [(), ("--resume", "nowhere"), ("missing.yaml",)])
def test_train_says_what_to_give(script: Script, arguments: tuple[str, ...]) -> None:
    _assert_one_line(script("train.py", *arguments))


# -- txt2img.py, evaluate.py -----------------------------------------------------------------


def test_txt2img_writes_pictures_a_grid_and_a_record(
    script: Script, runs: Path, tmp_path: Path
) -> None:
    arguments = (
        "txt2img.py",
        runs / "text",
        "--prompt",
        "a red circle",
        "--prompt",
        "a blue cross",
    )
    options = ("--per-prompt", 2, "--steps", 2, "--guidance", 2, "--out", tmp_path / "out")
    assert script(*arguments, *options).code == 0
    record = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert [s["prompt"] for s in record["samples"]] == ["a red circle"] * 2 + ["a blue cross"] * 2
    assert record["settings"]["guidance"] == 2
    images = sorted((tmp_path / "out" / "images").iterdir())
    assert len(images) == 4
    assert Image.open(images[0]).size == (16, 16)
    assert Image.open(tmp_path / "out" / "grid.png").size[0] > 32

    kept = images[0].read_bytes()
    images[1].unlink()
    outcome = script(*arguments, *options)
    assert "3 of 4 images are there already" in outcome.out
    assert images[0].read_bytes() == kept
    assert images[1].exists()

    outcome = script(*arguments, *options, "--seed", 5)
    _assert_one_line(outcome, "other settings")


def test_images_do_not_depend_on_the_batch_size(script: Script, runs: Path, tmp_path: Path) -> None:
    for size in (1, 3):
        outcome = script(
            "txt2img.py", runs / "text", "--prompt", "a red circle", "--per-prompt", 3,
            "--steps", 3, "--eta", 1, "--batch-size", size, "--out", tmp_path / str(size),
        )  # fmt: skip
        assert outcome.code == 0
    for k in range(3):
        one, three = (
            Image.open(tmp_path / size / "images" / f"{k:05d}.png") for size in ("1", "3")
        )
        difference = max(abs(a - b) for a, b in zip(one.tobytes(), three.tobytes(), strict=True))
        assert difference <= 1  # another batch size may round another way


def test_evaluate_samples(script: Script, runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = script(
        "txt2img.py", runs / "text", "--validation-captions", 4, "--per-prompt", 1, "--steps", 2,
        "--out", out,
    )  # fmt: skip
    assert outcome.code == 0
    features = ("--features", runs / "features")
    outcome = script("evaluate.py", out, *features)
    assert outcome.code == 0
    report = {m["name"]: m for m in json.loads((out / "metrics.json").read_text())["measurements"]}
    assert report["fd"]["num_real"] == 4
    assert "not comparable with published figures" in report["fd"]["note"]
    assert 0 <= report["precision"]["value"] <= 1
    assert report["fd"]["num_fake"] == 4
    assert f"{runs / 'text'}/config.yaml#validation" in report["fd"]["data"]
    batched = script("evaluate.py", out, *features, "--batch-size", 3, "--real", runs / "text")
    assert batched.code == 0
    again = {m["name"]: m for m in json.loads((out / "metrics.json").read_text())["measurements"]}
    for name, measurement in report.items():
        assert again[name]["value"] == pytest.approx(measurement["value"], rel=1e-4)
    on_the_fly = script("evaluate.py", runs / "text", *features, "--steps", 2, "--num", 4)
    assert on_the_fly.code == 0
    measured = json.loads((runs / "text" / "metrics-custom.json").read_text())
    found = {m["name"]: m["value"] for m in measured["measurements"]}
    assert found["fd"] == pytest.approx(report["fd"]["value"], rel=1e-2)
    assert measured["labels"]["fake"] == {"policy": "captions"}


def test_the_judge_refuses_scenes_it_cannot_read(
    script: Script, runs: Path, tmp_path: Path
) -> None:
    """16 pixels are too few; the report must not be written."""
    out = tmp_path / "out"
    script(
        "txt2img.py", runs / "text", "--prompt", "a red circle", "--per-prompt", 4, "--steps", 1,
        "--out", out,
    )  # fmt: skip
    outcome = script("evaluate.py", out, "--judge")
    if outcome.code == 0:
        report = json.loads((out / "metrics.json").read_text())
        values = {m["name"]: m["value"] for m in report["measurements"]}
        assert values["judge_accuracy"] >= 0.99
    else:
        _assert_one_line(outcome, "judge", "99 %")
        assert not (out / "metrics.json").exists()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("txt2img.py", "{runs}/text"), "--prompt"),
        (("txt2img.py", "{runs}/text", "--prompt", "x", "--steps", "2000"), "steps"),
        (("txt2img.py", "{runs}/text", "--prompt", "x", "--size", "17", "16"), "multiple of 2"),
        (("txt2img.py", "{runs}/ae", "--prompt", "x"), "not a latent diffusion model"),
        (("txt2img.py", "{runs}/nowhere", "--prompt", "x"), "nowhere"),
        (("txt2img.py", "{runs}/text", "--prompts", "none.txt"), "none.txt"),
        (("sample.py", "{runs}/text"), "txt2img.py"),
        (("evaluate.py", "{runs}/text"), "nothing to measure"),
        (("evaluate.py", "{runs}/text", "--features", "{runs}/features"), "give --num"),
        (("evaluate.py", "none", "--judge"), "none"),
        (
            ("evaluate.py", "{runs}/ae", "--judge", "--num", "4"),
            "first stages are measured by scripts/evaluate_autoencoder.py",
        ),
    ],
)
def test_wrong_arguments(
    script: Script, runs: Path, tmp_path: Path, arguments: tuple[str, ...], part: str
) -> None:
    filled = [argument.format(runs=runs) for argument in arguments]
    if "img.py" in filled[0] or "sample.py" in filled[0]:
        filled += ["--out", str(tmp_path / "out")]
    _assert_one_line(script(*filled), part.format(runs=runs))
