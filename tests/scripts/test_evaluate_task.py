"""Models with random weights: figures that are known, or that a trivial model must get."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from ldm.cli.data import some_images
from ldm.config import instantiate
from ldm.evaluation.scenes.judge import judge
from ldm.evaluation.scenes.layouts import layout_agreement
from ldm.load.model import run_config
from tests.scripts.conftest import Outcome
from tests.scripts.small_runs import small_run

Script = Callable[..., Outcome]

NUM = 8
FEATURES = "ldm.evaluation.SceneFeatures"
VGG = (
    *((0, 64), (2, 64), (5, 128), (7, 128), (10, 256), (12, 256), (14, 256)),
    *((17, 512), (19, 512), (21, 512), (24, 512), (26, 512), (28, 512)),
)
"""Index and channels of the convolutions of torchvision's VGG16."""
OPTIONS = ("--num", NUM, "--steps", 2, "--device", "cpu")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Small runs by the name of their config, each made once."""
    root = tmp_path_factory.mktemp("runs")
    made: dict[str, Path] = {}
    scenes = "scenes.validation.params.length=8"

    def run(name: str) -> Path:
        if name not in made:
            made[name] = small_run(name, root, scenes)
        return made[name]

    return run


@pytest.fixture(scope="module")
def vgg_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in torchvision's format, of the size that keeps features alive."""
    state: dict[str, torch.Tensor] = {}
    channels = 3
    generator = torch.Generator().manual_seed(0)
    for index, width in VGG:
        shape = (width, channels, 3, 3)
        weight = torch.randn(shape, generator=generator) * (2 / (9 * channels)) ** 0.5
        state |= {f"features.{index}.weight": weight, f"features.{index}.bias": torch.zeros(width)}
        channels = width
    file = tmp_path_factory.mktemp("weights") / "vgg.pth"
    torch.save(state, file)
    return file


def numbers(folder: Path) -> dict[str, Any]:
    """The measurements of a report by name."""
    report = json.loads((folder / "task.json").read_text())
    return {entry["name"]: entry for entry in report["measurements"]}


def replace_samples(folder: Path, images: torch.Tensor) -> None:
    """Put other pictures in place of the samples, as if a model had made them."""
    for k, image in enumerate(images):
        pixels = image.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / f"images/{k:05d}.png")


def real(run: Path) -> list[dict[str, Any]]:
    dataset: Any = instantiate(run_config(run).data, "data").validation
    return [dataset[k] for k in range(NUM)]


@pytest.mark.parametrize(
    ("name", "figures"),
    [
        ("class", {"shape_and_colour": 1.0, "count": 1.0, "correct": 1.0}),
        ("text", {"shape_and_colour": 1.0, "count": 1.0, "relation": 1.0, "correct": 1.0}),
        ("layout", {"class_found": 1.0}),
        ("semantic", {"map_pixels": 0.998, "map_objects": 0.99, "map_mean_iou": 0.99}),
        ("inpainting", {"hole_error": 0.0}),
        ("super_resolution", {}),
    ],
)
def test_real_images_get_the_best_figures_and_noise_the_worst(
    name: str, figures: dict[str, float], script: Script, runs: Callable[[str], Path]
) -> None:
    run = runs(f"laptop/{name}")
    outcome = script("evaluate_task.py", run, *OPTIONS, "--out", run / "task")
    assert outcome.code == 0, outcome.err
    bad = numbers(run / "task")
    assert (run / "task/task.png").is_file()
    replace_samples(run / "task", torch.stack([item["image"] for item in real(run)]))
    outcome = script("evaluate_task.py", run, *OPTIONS, "--out", run / "task")
    assert outcome.code == 0, outcome.err
    good = numbers(run / "task")
    for figure, value in figures.items():
        assert good[figure]["value"] == pytest.approx(value, abs=0.02), figure
    targets = [figure for figure in good if "target" in good[figure]["note"]]
    assert targets
    for figure in set(targets) - {"border_jump"}:  # eight images: real ones scatter around 1
        assert "met" in good[figure]["note"], good[figure]
        assert "missed" in bad[figure]["note"], bad[figure]


def test_the_iou_is_that_of_the_judge(script: Script, runs: Callable[[str], Path]) -> None:
    run = runs("laptop/layout")
    assert script("evaluate_task.py", run, *OPTIONS, "--out", run / "mine").code == 0
    items = real(run)
    replace_samples(run / "mine", torch.stack([item["image"] for item in items]))
    assert script("evaluate_task.py", run, *OPTIONS, "--out", run / "mine").code == 0
    expected = []
    for item in items:
        count = int((item["box_labels"] >= 0).sum())
        asked = list(zip(item["box_labels"].tolist(), item["boxes"].tolist(), strict=True))
        expected.append(layout_agreement(asked[:count], judge(item["image"])).iou)
    assert numbers(run / "mine")["box_iou"]["value"] == pytest.approx(sum(expected) / NUM, abs=1e-3)


def test_features_measure_what_has_no_condition(
    script: Script, runs: Callable[[str], Path]
) -> None:
    run = runs("laptop/unconditional")
    outcome = script("evaluate_task.py", run, *OPTIONS, "--out", run / "without")
    assert outcome.code == 2
    assert "--features" in outcome.err
    features = ("--features", FEATURES, "--out", run / "task")
    assert script("evaluate_task.py", run, *OPTIONS, *features).code == 0
    assert numbers(run / "task").keys() == {"fd", "precision", "recall", "copies"}
    train: Any = instantiate(run_config(run).data.params.train, "train")
    spread = [train[k * len(train) // NUM]["image"] for k in range(NUM)]
    replace_samples(run / "task", torch.stack(spread))
    assert script("evaluate_task.py", run, *OPTIONS, *features).code == 0
    copied = numbers(run / "task")
    assert copied["copies"]["value"] == 1
    assert "missed" in copied["copies"]["note"]
    assert copied["precision"]["value"] == copied["recall"]["value"] == 1


def test_lpips_and_features_look_inside_and_outside_the_hole(
    script: Script, runs: Callable[[str], Path], vgg_weights: Path
) -> None:
    run = runs("laptop/inpainting")
    out = run / "parts"
    options = (*OPTIONS, "--features", FEATURES, "--vgg-weights", vgg_weights, "--out", out)
    assert script("evaluate_task.py", run, *options).code == 0
    bad = numbers(out)
    items = real(run)
    images, masks = (torch.stack([item[key] for item in items]) for key in ("image", "mask"))
    distances = ("lpips_inside", "fd_inside", "lpips_outside", "fd_outside")
    assert all(bad[name]["value"] > 1e-3 for name in distances), bad
    replace_samples(out, torch.where(masks == 1, torch.zeros(()), images))
    assert script("evaluate_task.py", run, *options).code == 0
    grey_holes = numbers(out)
    assert all(grey_holes[name]["value"] > 1e-3 for name in distances[:2])
    assert all(grey_holes[name]["value"] < 1e-3 for name in distances[2:])
    assert {"fd_inside_mean_fill", "fd_inside_plain_paste"} <= grey_holes.keys()


def test_super_resolution_by_ssim_and_lpips(
    script: Script, runs: Callable[[str], Path], vgg_weights: Path
) -> None:
    run = runs("laptop/super_resolution")
    options = (*OPTIONS, "--vgg-weights", vgg_weights, "--out", run / "pairs")
    assert script("evaluate_task.py", run, *options).code == 0
    bad = numbers(run / "pairs")
    replace_samples(run / "pairs", torch.stack([item["image"] for item in real(run)]))
    assert script("evaluate_task.py", run, *options).code == 0
    good = numbers(run / "pairs")
    assert good["ssim"]["value"] == pytest.approx(1, abs=1e-3)
    assert good["lpips"]["value"] == pytest.approx(0, abs=1e-3)
    assert bad["ssim"]["value"] < good["bicubic_ssim"]["value"] < 1
    assert bad["lpips"]["value"] > 1e-2
    assert bad["bicubic_lpips"]["value"] == good["bicubic_lpips"]["value"]


def test_layouts_are_also_measured_by_features(script: Script, runs: Callable[[str], Path]) -> None:
    run = runs("laptop/layout")
    options = (*OPTIONS, "--features", FEATURES, "--out", run / "features")
    assert script("evaluate_task.py", run, *options).code == 0
    bad = numbers(run / "features")["fd"]["value"]
    replace_samples(run / "features", torch.stack([item["image"] for item in real(run)]))
    assert script("evaluate_task.py", run, *options).code == 0
    assert numbers(run / "features")["fd"]["value"] < 1e-3 < bad
    outcome = script("evaluate_task.py", run, *OPTIONS, "--lpips", "--out", run / "features")
    assert outcome.code == 2
    assert "--lpips goes with" in outcome.err


def test_inpainting_beside_an_unconditional_model(
    script: Script, runs: Callable[[str], Path]
) -> None:
    run, other = runs("laptop/inpainting"), runs("laptop/unconditional")
    options = (*OPTIONS, "--out", run / "beside", "--baseline", other)
    outcome = script("evaluate_task.py", run, *options)
    assert outcome.code == 0, outcome.err
    found = numbers(run / "beside")
    assert {"hole_error_mean_fill", "hole_error_unconditional"} <= found.keys()
    assert found["hole_error_unconditional"]["value"] != found["hole_error"]["value"]
    features = (*OPTIONS, "--out", other / "beside", "--features", FEATURES)
    outcome = script("evaluate_task.py", other, *features, "--baseline", other)
    assert outcome.code == 2
    assert "inpainting" in outcome.err


def test_what_cannot_be_judged_is_one_line(script: Script, tmp_path: Path) -> None:
    run = small_run("layout/coco-ldm-8", tmp_path)
    outcome = script("evaluate_task.py", run, *OPTIONS, "--out", tmp_path / "out")
    assert outcome.code == 2
    assert "synthetic scenes" in outcome.err
    assert outcome.err.strip().count("\n") == 0
    assert not (tmp_path / "out").exists()


def test_unknown_features_and_folders_are_refused_before_sampling(
    script: Script, runs: Callable[[str], Path], tmp_path: Path
) -> None:
    run, file = runs("laptop/class"), tmp_path / "file"
    file.write_text("")
    ask = ("evaluate_task.py", run, *OPTIONS)
    outcome = script(*ask, "--features", "nope", "--out", tmp_path / "x")
    assert outcome.code == 2
    assert "--features nope" in outcome.err
    assert not (tmp_path / "x").exists()
    outcome = script(*ask, "--out", file)
    assert outcome.code == 2
    assert f"{file} is a file" in outcome.err


def test_measured_images_are_spread_over_a_sorted_folder() -> None:
    """The first images of a folder with classes would all be of one class."""
    chosen = some_images(list(range(10)), 4, "ten items")
    assert [chosen[k] for k in range(len(chosen))] == [0, 2, 5, 7]
    assert list(some_images(list(range(3)), None, "three")) == [0, 1, 2]
