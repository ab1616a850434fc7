"""What only informs fails in every way there is, and training goes on with one warning."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import random
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ldm.training.callbacks import images, profiler
from ldm.training.callbacks.informing import OnlyInforms
from ldm.training.callbacks.metrics import MetricsLog, TensorBoardLog
from ldm.training.callbacks.progress import StepProgress
from ldm.training.run import train
from ldm.training.run_folder import RunFolder
from ldm.training.signals import Stop
from ldm.visualization.curves import draw_curves, read_metrics
from tests.training import tiny


def full_disk(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (ValueError("a\nb"), "ValueError: a"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), "Broken pipe"),
        (MemoryError(), "MemoryError: MemoryError"),
        (RecursionError(), "RecursionError"),
    ],
)
def test_an_error_is_one_warning(
    error: Exception, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    informs = OnlyInforms("curves")
    for _ in range(3):
        with informs:
            raise error
    (message,) = warnings_of(caplog)
    assert message.startswith(f"warning: curves: {words}")
    assert message.endswith("; training goes on without")
    assert "\n" not in message


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, Stop])
def test_requests_to_end_go_through(kind: type[BaseException]) -> None:
    with pytest.raises(kind), OnlyInforms("curves"):
        raise kind


BAD_LINES = [
    b"5", b"[]", b"null", b'"text"', b'{"step": null}', b'{"step": null, "train/a": 1}',
    b'{"step": "1", "train/a": 1}', b'{"step": true, "train/a": 1}', b'{"step": 1.5, "train/a": 2}',
    b'{"train/a": 1}', b'{"step": 1, "train/b": "x"}', b'{"step": 1, "train/b": [1]}',
    b'{"step": 1, "train/b": {}}', b'{"step": 1, "train/b": true}', b'{"step": 2, "tr', b"\xff\xfe",
    b"\x00" * 50, b"[" * 100_000, b'{"a":' * 50_000, b'{"step": 1, "train/b": 1e999}', b"",
    b'{"step": 1, "train/b": NaN}', b'{"step": 1' + b"0" * 400 + b', "train/b": 1}',
    b'{"step": 1, "train/b": 1' + b"0" * 400 + b"}", b'{"step": 9' + b"9" * 5000 + b"}",
    b'{"step": 1, "train/b": 1, "step": []}', "{\u2028}".encode(), b"x" * (3 << 20),
    b'{"step": 1, "train/b": "' + b"y" * (2 << 20) + b'"}',
]  # fmt: skip


@pytest.mark.parametrize("place", range(3))
def test_lines_that_are_no_records_are_passed_over(tmp_path: Path, place: int) -> None:
    path, good = tmp_path / "metrics.jsonl", b'{"step": 3, "train/a": 0.5}'
    for bad in BAD_LINES:
        path.write_bytes([bad + b"\n" + good, good + b"\n" + bad, good + b"\n\n" + bad][place])
        assert read_metrics(path) == {"train/a": [(3, 0.5)]}, bad[:50]


def test_changed_bytes_do_not_keep_curves_from_being_read(tmp_path: Path) -> None:
    path, noise = tmp_path / "metrics.jsonl", random.Random(0)
    lines = [json.dumps({"step": k, "train/loss": k / 3, "val/x": None}) for k in range(20)]
    for _ in range(300):
        content = bytearray("\n".join(lines).encode())
        for _ in range(noise.randrange(1, 9)):
            content[noise.randrange(len(content))] = noise.randrange(256)
        path.write_bytes(content[: noise.randrange(len(content))])
        curves = read_metrics(path)
        assert all(type(step) is int for curve in curves.values() for step, _ in curve)


@pytest.mark.parametrize(
    "name",
    ["train/$\\frac", "train/\udce9", "train/" + "x" * 300, "train/\n", "train/", "train/loss$"],
)
def test_curves_of_any_name_are_drawn(tmp_path: Path, name: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"step": 1, name: 1e300}) + "\n" + json.dumps({"step": 2, name: -1}))
    draw_curves(path, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000


def occupied(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("occupy", [occupied, os.mkfifo, lambda path: path.symlink_to(path)])
def test_logs_and_pictures_whose_place_is_taken(
    occupy: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    metrics, out = tmp_path / "metrics.jsonl", tmp_path / "curves.png"
    occupy(metrics)
    occupy(out)
    log, curves = MetricsLog(metrics), images.LossCurves(metrics, out)
    for step in range(3):
        log.log_metrics({"train/loss": 1.0}, step)
        curves.on_validation_end(SimpleNamespace(sanity_checking=False), None)
    told = warnings_of(caplog)
    assert len(told) <= 2
    assert any("metrics.jsonl cannot be written" in line for line in told)


@pytest.mark.parametrize("how", ["at once", "writer", "thread"])
def test_a_full_disk_silences_tensorboard(
    how: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    place = {
        "at once": "torch.utils.tensorboard.SummaryWriter.__init__",
        "writer": "torch.utils.tensorboard.SummaryWriter.add_scalar",
        "thread": "tensorboard.summary.writer.record_writer.RecordWriter.write",
    }[how]
    log = TensorBoardLog(tmp_path)
    monkeypatch.setattr(place, full_disk)
    _ = log.experiment  # Lightning asks for it before training
    for step in range(50):
        log.log_metrics({"train/loss": 1.0}, step)
        log.add_picture("preview", torch.zeros(3, 4, 4), step)
        log.save()
    log.finalize("success")
    (message,) = warnings_of(caplog)
    assert message == "warning: TensorBoard: No space left on device; training goes on without"
    for thread in threading.enumerate():
        if getattr(thread, "exception", None) is not None:  # one of TensorBoard's that fails
            thread.join(10)
    assert "Traceback" not in capfd.readouterr().err


class Broken(io.StringIO):
    def __init__(self, error: Exception, terminal: bool) -> None:
        super().__init__()
        self._error, self._terminal = error, terminal

    def isatty(self) -> bool:
        return self._terminal

    def write(self, _: str) -> int:
        raise self._error

    flush = write  # type: ignore[assignment]


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize(
    "stream",
    [BrokenPipeError(errno.EPIPE, "Broken pipe"), ValueError("I/O operation on closed file"), None],
)
def test_progress_for_nobody(
    stream: Exception | None, terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", None if stream is None else Broken(stream, terminal))
    monkeypatch.setattr("ldm.training.callbacks.progress.total_steps", lambda _: 5)
    throughput: Any = SimpleNamespace(summary=lambda: "")
    progress = StepProgress("run", throughput)
    trainer: Any = SimpleNamespace(global_step=0, progress_bar_metrics={})
    progress.on_train_start(trainer, None)  # type: ignore[arg-type]
    for step in range(6):
        trainer.global_step = step
        progress.on_train_batch_end(trainer, None)  # type: ignore[arg-type]
    progress.on_fit_end(trainer, None)  # type: ignore[arg-type]
    progress.on_exception()


def test_a_run_goes_on_whatever_fails_that_informs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And again when it is resumed; checkpoints are whole."""

    def odd(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(images, "draw_curves", odd)
    monkeypatch.setattr(images, "save_image", full_disk)
    monkeypatch.setattr(profiler, "write_text", full_disk)
    monkeypatch.setattr(MetricsLog, "_append", full_disk)
    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_scalar", full_disk)
    monkeypatch.setattr("ldm.training.callbacks.throughput.peak_memory", odd)
    monkeypatch.setattr("ldm.training.callbacks.progress.ProgressLines.write", odd)
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.metrics.touch()
    config = tiny.autoencoder(profile={"start": 0, "steps": 1})
    train(config, folder)
    assert folder.complete
    told = warnings_of(caplog)
    for what in ("metrics.jsonl", "TensorBoard", "picture", "curves.png", "profile", "progress"):
        assert sum(what in line for line in told) == 1, (what, told)
    config.trainer.max_steps = 6
    train(config, folder, resume=True)
    assert folder.status()["step"] == 6


def test_a_picture_that_fails_leaves_the_model_in_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    modes: list[bool] = []
    task: Any = SimpleNamespace(training=True, eval=lambda: None, train=modes.append, model=None)
    task.preview = full_disk
    picture = images.PictureGrid(tmp_path / "samples", every=1)
    picture.on_train_batch_end(SimpleNamespace(global_step=1, loggers=[]), task)
    assert modes == [True]
    assert len(warnings_of(caplog)) == 1


def test_pictures_do_not_bring_a_removed_folder_back(tmp_path: Path) -> None:
    task: Any = SimpleNamespace(training=True, eval=lambda: None, train=lambda _: None, model=None)
    task.preview = lambda _: torch.zeros(1, 3, 4, 4)
    picture = images.PictureGrid(tmp_path / "gone" / "samples", every=1)
    picture.on_train_batch_end(SimpleNamespace(global_step=1, loggers=[]), task)
    assert list(tmp_path.iterdir()) == []
