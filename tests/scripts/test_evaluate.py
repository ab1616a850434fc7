"""evaluate.py and compare_reports.py: every kind of source, presets, what is refused and why."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from ldm.cli.sources import ModelSource
from ldm.evaluation.metrics.fid import FeatureStatistics, save_statistics
from tests.evaluation.networks.test_inception import random_network
from tests.evaluation.small_evaluation import pictures
from tests.scripts.conftest import SCRIPTS, Outcome
from tests.scripts.small_runs import small_run

Script = Callable[..., Outcome]

NAME = "evaluate.py"
SUMS = "tests.evaluation.small_evaluation.Sums"
LENGTH = "data.params.validation.params.length=8"
BY_SUMS = ("--features", SUMS)
PRESET = ("--preset", "laptop", *BY_SUMS)


def write(folder: Path, images: list[torch.Tensor], ending: str = "png") -> Path:
    for k, image in enumerate(images):
        file = folder / f"{k % 2}" / f"{k:04d}.{ending}"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file)
    return folder


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("real"), pictures(40, seed=1))


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("fake"), pictures(30, seed=2, shift=20))


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run("class/cin256", tmp_path_factory.mktemp("class"), "num_classes=3", LENGTH)


def read(file: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(file.read_text())
    return report


def numbers(report: dict[str, Any]) -> dict[str, float]:
    return {m["name"]: m["value"] for m in report["measurements"]}


def refused(outcome: Outcome, *parts: str, code: int = 2) -> None:
    assert outcome.code == code, outcome.err
    lines = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    for part in parts:
        assert part in lines[0], f"{part!r} is not in {lines[0]!r}"


def test_folders_by_a_preset(script: Script, real: Path, fake: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    outcome = script(NAME, fake, "--real", real, *PRESET, "--out", out)
    assert outcome.code == 0, outcome.err
    report = read(out)
    assert set(numbers(report)) == {
        *("fd", "fd_infinity", "kid", "precision", "recall", "density", "coverage"),
    }
    assert report["fake"]["where"] == str(fake)
    assert report["real"]["count"] == 40
    assert Path(report["command"][1]).name == NAME
    assert report["command"][2] == str(fake)
    assert "fd" in outcome.out
    assert "not resized" in outcome.out
    assert "Compare only with numbers of the same feature network" in outcome.out


def test_all_kinds_of_sources_agree(script: Script, real: Path, fake: Path, tmp_path: Path) -> None:
    images = torch.stack(pictures(40, seed=1))
    np.savez(tmp_path / "real.npz", arr_0=images.permute(0, 2, 3, 1).numpy())
    moments = ("--save-statistics", tmp_path / "moments.npz")
    outcome = script(NAME, real, *BY_SUMS, *moments)
    assert outcome.code == 0, outcome.err
    (tmp_path / "data.yaml").write_text(
        "target: ldm.data.ImageFolder\n"
        f"params: {{root: {real}, size: 8, split: all, captions: none}}\n"
    )
    found = {}
    for name in (str(real), "real.npz", "data.yaml", "moments.npz"):
        out = tmp_path / "report.json"
        metrics = ("--metrics", "fd")
        outcome = script(NAME, fake, "--real", tmp_path / name, *BY_SUMS, *metrics, "--out", out)
        assert outcome.code == 0, outcome.err
        found[name] = numbers(read(out))["fd"]
    want = found.pop(str(real))
    assert found == pytest.approx(dict.fromkeys(found, want), rel=1e-5)


def test_a_model_is_sampled_on_the_fly(script: Script, classes: Path, tmp_path: Path) -> None:
    """As many numbers as from its samples on disk."""
    out = tmp_path / "samples"
    steps = ("--steps", "2", "--batch-size", "4", "--seed", "5")
    assert script("sample.py", classes, *steps, "--num-images", "6", "--out", out).code == 0
    assert script(NAME, out, *PRESET).code == 0
    stored = read(out / "metrics.json")
    file = tmp_path / "report.json"
    outcome = script(NAME, classes, *PRESET, *steps, "--num", "6", "--out", file)
    assert outcome.code == 0, outcome.err
    report = read(file)
    assert report["fake"]["kind"] == "model"
    assert report["fake"]["about"]["settings"]["sampler"]["steps"] == 2
    assert report["labels"]["fake"] == stored["labels"]["fake"]
    assert report["labels"]["fake"]["policy"] == "uniform"
    assert report["real"]["sha256"] == stored["real"]["sha256"]
    assert report["real"]["where"].endswith("config.yaml#validation")
    assert numbers(report) == pytest.approx(numbers(stored), rel=1e-2)
    options = (*PRESET, *steps, "--num", "6", "--bytes", "truncate", "--out", file)
    assert script(NAME, classes, *options).code == 0
    truncated = read(file)
    assert "without the fraction" in truncated["fake"]["about"]["rounding"]
    assert numbers(truncated) != numbers(report)
    outcome = script(NAME, out, *PRESET, "--bytes", "truncate")
    assert (outcome.code, "--bytes" in outcome.err) == (2, True)


def test_the_cache_changes_no_number(
    script: Script, real: Path, fake: Path, tmp_path: Path
) -> None:
    reports = []
    for k in range(2):
        out = tmp_path / f"{k}.json"
        cache = ("--cache", tmp_path / "cache", "--out", out)
        assert script(NAME, fake, "--real", real, *PRESET, *cache).code == 0
        reports.append(read(out))
    assert reports[0]["run"]["from_cache"] == []
    assert len(reports[1]["run"]["from_cache"]) == 2
    assert numbers(reports[0]) == pytest.approx(numbers(reports[1]), rel=1e-12)


def test_samples_find_their_run_from_anywhere_and_after_a_move(
    script: Script, classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(classes, tmp_path / "a/runs/x")
    monkeypatch.chdir(tmp_path / "a")
    shared = ("--steps", 2, "--num-images", 6)
    for out in ("runs/x/generated", "out"):
        outcome = script("sample.py", "runs/x", *shared, "--out", out)
        assert outcome.code == 0, outcome.err
    monkeypatch.chdir(tmp_path)
    shutil.move("a", "b")
    shutil.move("b/runs/x", "b/runs/x\udce9")
    for out, code in (("b/runs/x\udce9/generated", 0), ("b/out", 2)):
        outcome = script(NAME, out, *BY_SUMS, "--metrics", "fd", "--out", tmp_path / "\udce9.json")
        assert (outcome.code, "no run folder here" in outcome.err) == (code, code == 2), outcome.err
    shutil.move("b/runs/x\udce9", "b/runs/x")
    monkeypatch.chdir("/")
    outcome = script(NAME, tmp_path / "b/out", *BY_SUMS, "--metrics", "fd", "--out", tmp_path / "o")
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize("name", ["caf\udce9", "a#train", "a[1]", "{x}"])
def test_files_and_folders_of_any_name(script: Script, tmp_path: Path, name: str) -> None:
    folders = [tmp_path / name / side for side in ("real", "fake")]
    for seed, folder in enumerate(folders):
        folder.mkdir(parents=True)
        for k, image in enumerate(pictures(12, seed=seed)):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{name}{k}.png")
            (folder / f"{name}{k}.txt").write_text("a red circle\na disc")
    cache = ("--cache", tmp_path / f"cache{name}")
    out = tmp_path / f"{name}.json"
    for _ in range(2):
        arguments = (folders[1], "--real", folders[0], *BY_SUMS, "--metrics", "fd", *cache)
        outcome = script(NAME, *arguments, "--out", out)
        assert outcome.code == 0, outcome.err
    (folders[1] / f"{name}3.png").write_bytes(b"?")
    refused(script(NAME, *arguments, "--out", out), "1 of the 12", "--skip-corrupt", code=3)
    outcome = script(NAME, *arguments, "--out", out, "--skip-corrupt")
    assert outcome.code == 0, outcome.err
    (left_out,) = read(out)["left_out"].values()
    assert len(left_out) == 1


def test_corrupt_images(script: Script, real: Path, tmp_path: Path) -> None:
    fake = write(tmp_path / "fake", pictures(30, seed=2))
    damaged = fake / "1" / "0007.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    out = tmp_path / "report.json"
    options = ("--real", real, *PRESET, "--out", out)
    refused(script(NAME, fake, *options), "1 of the 30 images", "1/0007.png", code=3)
    assert not out.exists()
    outcome = script(NAME, fake, *options, "--skip-corrupt")
    assert outcome.code == 0, outcome.err
    report = read(out)
    assert report["measurements"][0]["num_fake"] == 29
    assert "1/0007.png" in "".join(report["left_out"][str(fake)])
    assert "0007.png" in outcome.out


def test_statistics_count_what_could_be_read(script: Script, tmp_path: Path) -> None:
    folder = write(tmp_path / "images", pictures(10, seed=2))
    (folder / "1" / "0007.png").write_bytes(b"")
    out = tmp_path / "moments.npz"
    outcome = script(NAME, folder, *BY_SUMS, "--skip-corrupt", "--save-statistics", out)
    assert outcome.code == 0, outcome.err
    assert "of 9 images" in outcome.out


def test_a_model_by_another_config_is_another_source() -> None:
    """The same weights make other images, say with another scale factor."""

    def digest(factor: float) -> str:
        job = SimpleNamespace(
            options=SimpleNamespace(source="run", bytes="round"),
            config=OmegaConf.create({"f": factor, "model": {"params": {"scale_factor": "${f}"}}}),
            settings=lambda: {"run": "run", "checkpoint_sha256": "ab"},
            size=lambda: (8, 8),
        )
        return str(ModelSource(job, 4, lambda _: {}).info.sha256)

    assert digest(1.0) == digest(1.0) != digest(2.0)


def test_two_processes_agree_with_one(
    script: Script, real: Path, fake: Path, tmp_path: Path
) -> None:
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    options = ["--real", str(real), *PRESET, "--batch-size", "1", "--device", "cpu"]
    assert script(NAME, fake, *options, "--out", one).code == 0
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    meeting["PYTHONPATH"] = str(SCRIPTS.parent)
    command = [sys.executable, str(SCRIPTS / NAME), str(fake), *options, "--out", str(two)]
    running = [
        subprocess.Popen(
            command,
            env={**os.environ, **meeting, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=SCRIPTS.parent,
        )
        for rank in range(2)
    ]
    assert [process.wait(timeout=300) for process in running] == [0, 0]
    assert numbers(read(one)) == pytest.approx(numbers(read(two)), rel=1e-10)
    assert read(two)["run"]["processes"] == 2


def test_resizing_is_said(script: Script, real: Path, fake: Path, tmp_path: Path) -> None:
    outcome = script(NAME, fake, "--real", real, *PRESET, "--resize", "clean")
    refused(outcome, "takes images as they are")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ((), ("nothing to measure", "--preset")),
        (("--preset", "adn"), ("adn", "ldm-paper")),
        (("--preset", "laptop"), ("--features", "runs/laptop-features")),
        (("--preset", "adm"), ("give --real", "reference batch")),
        ((*BY_SUMS,), ("give --real", "samples.json")),
        ((*BY_SUMS, "--metrics", "fid,fidd"), ("fidd", "precision_recall")),
        ((*PRESET, "--metrics", "fd"), ("a preset says what is measured",)),
        (("--metrics", "fd"), ("--metrics goes with --features",)),
        (("--features", "nothing", "--real", "{real}"), ("nothing", "inception", "run folder")),
        ((*BY_SUMS, "--real", "{real}", "--labels", "uniform"), ("goes with a model",)),
        ((*BY_SUMS, "--real", "{real}", "--split", "train"), ("goes with a run",)),
        ((*BY_SUMS, "--real", "{real}", "--num", "31"), ("31", "1 to 30")),
        ((*BY_SUMS, "--real", "{real}", "--num-real", "41"), ("41", "1 to 40")),
        ((*BY_SUMS, "--real", "{real}", "--batch-size", "0"), ("--batch-size 0",)),
        ((*BY_SUMS, "--real", "{real}", "--judge"), ("needs captions",)),
        ((*BY_SUMS, "--real", "nowhere"), ("nowhere", "does not exist")),
        (
            ("--features", "inception", "--real", "{real}", "--weights", "absent.pth"),
            ("absent.pth", "weights-inception-2015-12-05-6726825d.pth", "--weights"),
        ),
        (
            (*BY_SUMS, "--real", "{real}", "--weights", "vgg16=x"),
            ("--weights vgg16=x", SUMS),
        ),
    ],
)
def test_what_is_refused(
    script: Script,
    real: Path,
    fake: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    parts: tuple[str, ...],
) -> None:
    filled = [argument.format(real=real) for argument in arguments]
    out = tmp_path / "report.json"
    refused(script(NAME, fake, *filled, "--out", out), *parts)
    assert not out.exists()


def test_empty_folders_and_float_arrays(script: Script, real: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(script(NAME, tmp_path / "empty", "--real", real, *BY_SUMS), "empty")
    np.savez(tmp_path / "float.npz", arr_0=np.zeros((4, 8, 8, 3), np.float32))
    refused(script(NAME, tmp_path / "float.npz", "--real", real, *BY_SUMS), "float32", "uint8")


def test_statistics_of_another_network(script: Script, fake: Path, tmp_path: Path) -> None:
    statistics = FeatureStatistics(6).update(torch.randn(9, 6))
    about = {"network": "inception", "weights_sha256": "ab"}
    save_statistics(tmp_path / "other.npz", {"features": statistics}, about)
    outcome = script(NAME, fake, "--real", tmp_path / "other.npz", *BY_SUMS, "--metrics", "fd")
    refused(outcome, "inception", "cannot be compared")


# -- compare_reports.py --------------------------------------------------------------------------


def test_reports_that_compare_and_that_do_not(
    script: Script, real: Path, fake: Path, tmp_path: Path
) -> None:
    files = {name: tmp_path / f"{name}.json" for name in ("a", "b", "fewer")}
    other = write(tmp_path / "other", pictures(30, seed=8))
    for name, folder, options in (
        ("a", fake, ()),
        ("b", other, ()),
        ("fewer", other, ("--num", "20")),
    ):
        arguments = ("--real", real, *PRESET, *options, "--out", files[name])
        assert script(NAME, folder, *arguments).code == 0
    outcome = script("compare_reports.py", files["a"], files["b"])
    assert outcome.code == 0, outcome.out
    assert "NOT" not in outcome.out
    outcome = script("compare_reports.py", files["a"], files["fewer"])
    assert outcome.code == 1
    assert "number of generated images: 30 and 20" in outcome.out


def test_reports_that_are_none(script: Script, tmp_path: Path) -> None:
    refused(script("compare_reports.py", tmp_path / "x.json", tmp_path), "no such report")
    (tmp_path / "x.json").write_text('{"measurements": 3}')
    refused(script("compare_reports.py", *[tmp_path / "x.json"] * 2), "not a report")


# -- the published network -------------------------------------------------------------------


@pytest.fixture(scope="module")
def inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in the format of the published weights, with random ones."""
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    with pytest.MonkeyPatch.context() as patch:
        network = random_network(module, patch)
    file = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(network.state_dict(), file)
    return file


@pytest.mark.slow
def test_adm_with_its_reference_batch(
    script: Script, real: Path, fake: Path, inception: Path, tmp_path: Path
) -> None:
    """The moments that the file holds, and its images for precision and recall."""
    weights = ("--weights", inception)
    moments = ("--save-statistics", tmp_path / "moments.npz")
    assert script(NAME, real, "--preset", "adm", *weights, *moments).code == 0
    with np.load(tmp_path / "moments.npz") as saved:
        reference = {name: saved[name] for name in ("mu", "sigma", "mu_s", "sigma_s")}
    assert reference["mu"].shape == (2048,)
    images = torch.stack(pictures(40, seed=1)).permute(0, 2, 3, 1).numpy()
    np.savez(tmp_path / "reference.npz", arr_0=images[:25], **reference)
    out = tmp_path / "report.json"
    options = ("--preset", "adm", "--real", tmp_path / "reference.npz", *weights, "--out", out)
    outcome = script(NAME, fake, *options)
    assert outcome.code == 0, outcome.err
    found = {m["name"]: m for m in read(out)["measurements"]}
    assert {"fid", "sfid", "inception_score", "precision", "recall"} <= found.keys()
    assert found["fid"]["num_real"] == 0  # the file does not say
    assert found["precision"]["num_real"] == 25
    assert "not the published weights" in found["fid"]["note"]
    assert "TensorFlow 1, not antialiased" in found["fid"]["how"]["resize"]
    plain = tmp_path / "plain.json"
    options = ("--preset", "adm", "--real", real, *weights, "--out", plain)
    assert script(NAME, fake, *options).code == 0
    same = numbers(read(plain))
    for name in ("fid", "sfid", "inception_score"):
        assert found[name]["value"] == pytest.approx(same[name], rel=1e-5)
    outcome = script(NAME, fake, "--preset", "clean", "--real", tmp_path / "moments.npz", *weights)
    refused(outcome, "resized in another way")


def test_what_could_not_be_followed_is_refused_before_any_work(
    script: Script, real: Path, fake: Path, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    ask = (NAME, fake, "--real", real, *BY_SUMS)
    refused(script(*ask, "--out", tmp_path), "--out", "is a folder")
    refused(script(*ask, "--save-statistics", tmp_path), "--save-statistics", "is a folder")
    refused(script(*ask, "--cache", file), "--cache", "is a file")
    refused(script(*ask, "--steps", 3), "--steps 3", "goes with a model")
    refused(script(*ask, "--guidance", 2), "--guidance 2", "goes with a model")
    refused(script(*ask, "--no-ema"), "--no-ema", "goes with a model")
