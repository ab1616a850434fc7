from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

from ldm.training.callbacks import images
from ldm.training.callbacks.metrics import MetricsLog
from ldm.visualization.curves import draw_curves, read_metrics


def test_lines_are_appended_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    MetricsLog(path).log_metrics({"train/loss": 2.0, "epoch": 0}, step=1)
    MetricsLog(path).log_metrics({"train/loss": 1.0, "val/loss": 3.0}, step=2)
    MetricsLog(path).log_metrics({"epoch": 1}, step=3)
    assert read_metrics(path) == {"train/loss": [(1, 2.0), (2, 1.0)], "val/loss": [(2, 3.0)]}


def test_a_repeated_step_keeps_the_later_value_and_a_cut_line_is_passed_over(
    tmp_path: Path,
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 4, "train/loss": 1.0}\n{"step": 5, "trai')
    path.write_text(path.read_text() + '\n{"step": 4, "train/loss": 0.5}\n')
    assert read_metrics(path) == {"train/loss": [(4, 0.5)]}


def test_what_is_not_finite_is_null_and_no_point_of_a_curve(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    for step, value in ((1, 2.0), (2, float("nan")), (3, float("inf")), (1, float("nan"))):
        log.log_metrics({"train/loss": value, "train/lr": 1.0}, step=step)
    assert "NaN" not in path.read_text()
    assert path.read_text().count("null") == 3
    assert read_metrics(path) == {"train/lr": [(1, 1.0), (2, 1.0), (3, 1.0)]}


def test_speed_is_logged_but_no_loss_curve(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    MetricsLog(path).log_metrics({"perf/images_per_second": 1.0, "train/loss": 1.0}, step=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # an empty plot has no legend
        draw_curves(path, tmp_path / "curves.png")
    assert read_metrics(path)["perf/images_per_second"] == [(1, 1.0)]


def test_curves_are_drawn_also_for_values_that_have_no_logarithm(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    for step in range(3):
        log.log_metrics({"train/loss": 1.0 / (step + 1), "train/g_loss": -1.0}, step=step)
    draw_curves(path, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_curves_are_drawn_after_each_validation_but_lightnings_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[Path, Path]] = []
    monkeypatch.setattr(images, "draw_curves", lambda *paths: drawn.append(paths))
    paths = tmp_path / "metrics.jsonl", tmp_path / "curves.png"
    callback = images.LossCurves(*paths)
    callback.on_validation_end(SimpleNamespace(sanity_checking=False), None)
    assert drawn == []  # nothing has been logged yet
    paths[0].touch()
    callback.on_validation_end(SimpleNamespace(sanity_checking=True), None)
    assert drawn == []
    callback.on_validation_end(SimpleNamespace(sanity_checking=False), None)
    assert drawn == [paths]


def test_a_line_that_a_kill_cut_short_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    MetricsLog(path).log_metrics({"loss": 1.0}, 1)
    with path.open("a") as file:
        file.write('{"step": 2, "lo')
    resumed = MetricsLog(path)
    resumed.log_metrics({"loss": 2.0}, 2)
    resumed.log_metrics({"loss": 3.0}, 3)
    assert read_metrics(path) == {"loss": [(1, 1.0), (2, 2.0), (3, 3.0)]}
