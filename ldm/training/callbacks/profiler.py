"""A look at a few steps with torch's profiler, while training goes on."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_only
from torch.profiler import ProfilerActivity, profile

from ldm.files import write_text
from ldm.training.callbacks.informing import OnlyInforms

_ROWS = 40

logger = logging.getLogger(__name__)


class ProfileSteps(pl.Callback):
    """Profiles some optimiser steps of the first process, and writes two files.

    ``step-N-trace.json.gz`` is a time line for Perfetto or chrome://tracing,
    ``step-N-operations.txt`` a table of the operations that take most time; N is the first step
    that was profiled.

    Args:
        folder: where they go.
        start: optimiser steps from where training begins, or continues, to the first to profile.
        steps: how many to profile.
    """

    def __init__(self, folder: Path, start: int = 10, steps: int = 5) -> None:
        self._folder, self._start, self._steps = folder, start, steps
        self._profiler: profile | None = None
        self._first, self._done = 0, False
        self._informs = OnlyInforms("profile")

    @rank_zero_only
    def on_train_start(self, trainer: Any, _task: Any) -> None:
        """Count from here."""
        self._first = trainer.global_step + self._start

    @rank_zero_only
    def on_train_batch_start(self, trainer: Any, *_args: Any) -> None:
        """Begin if it is time."""
        if self._profiler is None and not self._done and trainer.global_step >= self._first:
            self._first = trainer.global_step
            on_gpu = trainer.strategy.root_device.type == "cuda"
            activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
            self._done = True
            with self._informs:
                profiler = profile(activities=activities)
                profiler.start()
                self._profiler, self._done = profiler, False

    @rank_zero_only
    def on_train_batch_end(self, trainer: Any, *_args: Any) -> None:
        """End if it is time, and write."""
        if self._profiler is not None and trainer.global_step >= self._first + self._steps:
            self._write(trainer)

    @rank_zero_only
    def on_train_end(self, trainer: Any, _task: Any) -> None:
        """Write what there is, or say that there is nothing."""
        if self._profiler is not None:
            self._write(trainer)
        elif not self._done:
            logger.warning(
                "profile: training ended before step %d, where it was to start", self._first
            )

    def on_exception(self, *_args: Any) -> None:
        """Stop without a word: the exception says more."""
        if self._profiler is not None:
            with self._informs:
                self._profiler.stop()
            self._profiler = None

    def _write(self, trainer: Any) -> None:
        profiler, self._profiler, self._done = self._profiler, None, True
        assert profiler is not None
        with self._informs:
            self._write_files(profiler, trainer)

    def _write_files(self, profiler: profile, trainer: Any) -> None:
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        profiler.stop()
        where = self._folder / f"step-{self._first:07d}"
        trace, table = Path(f"{where}-trace.json.gz"), Path(f"{where}-operations.txt")
        self._folder.mkdir(exist_ok=True)
        profiler.export_chrome_trace(str(trace))
        device = "cuda" if trainer.strategy.root_device.type == "cuda" else "cpu"
        averages = profiler.key_averages()
        text = averages.table(sort_by=f"self_{device}_time_total", row_limit=_ROWS) + "\n"
        write_text(table, text)
        count = trainer.global_step - self._first
        logger.info("profile of %d steps: %s (Perfetto opens it) and %s", count, trace, table)
