from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl

from ldm.training.callbacks.progress import ProgressLines, StepProgress
from ldm.training.callbacks.throughput import Meter, Throughput
from ldm.training.run import train
from ldm.training.run_folder import RunFolder
from tests.training import tiny
from tests.training.clock import Clock, SlowData, SlowTask


def test_lines_come_now_and_then_and_at_both_ends(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    lines = ProgressLines("run", total=1000, step=990, seconds=15, clock=clock)
    for step in range(991, 1001):
        clock.now += 6
        for _micro_batch in range(2):
            if lines.due(step):
                lines.write(step, "loss 0.5")
    assert capsys.readouterr().err.splitlines() == [
        "run: step 991/1000, 0.167 steps/s, 00:54 left, loss 0.5",
        "run: step 994/1000, 0.167 steps/s, 00:36 left, loss 0.5",
        "run: step 997/1000, 0.167 steps/s, 00:18 left, loss 0.5",
        "run: step 1000/1000, 0.167 steps/s, 00:00 left, loss 0.5",
    ]


def test_without_an_end_there_is_no_time_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _fit(tmp_path, max_steps=-1)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("run:")]
    assert re.fullmatch(r"run: step 1, .* steps/s, loss \d\.\d{4}", lines[0])


class _Impatient(pl.Callback):
    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        trainer.should_stop = trainer.global_step == 30


def _fit(tmp_path: Path, max_steps: int = 20) -> None:
    clock = Clock()
    throughput = Throughput(every=5, peak_tflops=1e-9, meter=Meter(clock))
    progress: Any = StepProgress("run", throughput)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=max_steps,
        max_epochs=-1,
        callbacks=[throughput, progress, _Impatient()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        default_root_dir=tmp_path,
    )
    trainer.fit(SlowTask(clock), datamodule=SlowData(clock, 0.25))


@pytest.mark.parametrize("parts", [1, 2])
def test_the_total_is_that_of_epochs_of_different_lengths(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], parts: int
) -> None:
    """Epochs of 4, 5 and 4 batches: what is left of one begins the next."""
    config = tiny.features(data={"params": {"train": {"params": {"length": 18}}}})
    config.trainer = {"max_epochs": 3, "accelerator": "cpu", "accumulate_grad_batches": parts}
    config.every = {"log": 1, "validation": 100, "checkpoint": 100, "images": 0}
    folder = RunFolder(tmp_path / "run")
    train(config, folder)
    lines = [line for line in capsys.readouterr().err.splitlines() if ": step " in line]
    assert folder.status()["step"] == 13
    assert [line.split(",")[0] for line in lines] == [
        "tiny-features: step 1/13",
        "tiny-features: step 13/13",
    ]


STATE = (
    r"loss \d\.\d{4}, 1\.00 images/s, data wait 25%, 1\.92e-07 GFLOP/s \(19% of peak\), \d+\.\d GB"
)


def test_a_log_gets_plain_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _fit(tmp_path)
    text = capsys.readouterr().err
    lines = [line for line in text.splitlines() if line.startswith("run:")]
    assert "\r" not in text
    assert re.fullmatch(r"run: step 1/20, .* steps/s, \d\d:\d\d left, loss \d\.\d{4}", lines[0])
    assert re.fullmatch(rf"run: step 20/20, .* steps/s, 00:00 left, {STATE}", lines[-1])


def test_a_terminal_gets_a_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "300")
    _fit(tmp_path)
    last = terminal.getvalue().rstrip().split("\r")[-1]
    assert re.search(r"20/20 .*step", last), last
    assert re.search(STATE, last), last
