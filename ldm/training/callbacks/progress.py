"""How far a run is: a progress bar in a terminal, plain lines in a file."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_only
from tqdm import tqdm

from ldm.training.callbacks.informing import OnlyInforms
from ldm.training.callbacks.throughput import Throughput

_REFRESH_LOSS_EVERY = 10  # reading the loss waits for the device
_SECONDS_BETWEEN_LINES = 15.0


class StepProgress(pl.Callback):
    """Shows step, total, speed, remaining time, loss and throughput.

    Args:
        description: text in front.
        throughput: whose readings are shown; it must come first among the callbacks.
    """

    def __init__(self, description: str, throughput: Throughput) -> None:
        self._description = description
        self._throughput = throughput
        self._bar: tqdm[Any] | None = None
        self._lines: ProgressLines | None = None
        self._informs = OnlyInforms("progress cannot be shown")

    @rank_zero_only
    def on_train_start(self, trainer: pl.Trainer, _task: pl.LightningModule) -> None:
        """Begin where the run stands."""
        total, step = total_steps(trainer), trainer.global_step
        with self._informs:
            self._begin(total, step)

    def _begin(self, total: int | None, step: int) -> None:
        if not sys.stderr.isatty():
            self._lines = ProgressLines(self._description, total, step)
            return
        self._bar = tqdm(
            total=total,
            initial=step,
            desc=self._description,
            unit="step",
            dynamic_ncols=True,
            mininterval=0.5,
        )

    @rank_zero_only
    def on_train_batch_end(
        self, trainer: pl.Trainer, _task: pl.LightningModule, *_args: Any
    ) -> None:
        """Advance by the optimiser steps taken."""
        step = trainer.global_step
        with self._informs:
            if self._lines is not None and self._lines.due(step):
                self._lines.write(step, self._state(trainer))
            if self._bar is not None:
                if step % _REFRESH_LOSS_EVERY == 0:
                    self._bar.set_postfix_str(self._state(trainer), refresh=False)
                self._bar.update(step - self._bar.n)

    def _state(self, trainer: pl.Trainer) -> str:
        loss = trainer.progress_bar_metrics.get("loss")
        words = [] if loss is None else [f"loss {float(loss):.4f}"]
        words.append(self._throughput.summary())
        return ", ".join(word for word in words if word)

    @rank_zero_only
    def on_fit_end(self, _trainer: pl.Trainer, _task: pl.LightningModule) -> None:
        """Leave the finished bar on the screen."""
        self._close()

    def on_exception(self, *_args: Any) -> None:
        """Leave the bar where the run stopped."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            with self._informs:
                self._bar.close()
            self._bar = None


def total_steps(trainer: Any) -> int | None:
    """Optimiser steps of the whole run; None: nobody knows, or it has no end.

    Lightning takes all epochs to be as long as the longest: some have one batch more than others.
    """
    if trainer.estimated_stepping_batches in (math.inf, -1):
        return None
    estimate, data = int(trainer.estimated_stepping_batches), trainer.datamodule
    if trainer.max_epochs == -1 or not hasattr(data, "batches_in"):
        return estimate
    batches = [data.batches_in(epoch) for epoch in range(trainer.max_epochs)]
    return estimate if None in batches else min(estimate, sum(batches))


class ProgressLines:
    """Progress for logs, which have no place to draw a bar over and over: a line now and then.

    Args:
        description: text in front.
        total: optimiser steps of the whole run, if known.
        step: those taken so far.
        seconds: least time between two lines; the first step and the last have one in any case.
        clock: seconds from any beginning.
    """

    def __init__(
        self,
        description: str,
        total: int | None,
        step: int,
        seconds: float = _SECONDS_BETWEEN_LINES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._description, self._total, self._first = description, total, step
        self._seconds, self._clock = seconds, clock
        self._begin = clock()
        self._next = self._begin  # the first step: it runs
        self._written = step

    def due(self, step: int) -> bool:
        """Whether a line is to be written at this step."""
        news = step != self._written
        return news and (step == self._total or self._clock() >= self._next)

    def write(self, step: int, state: str) -> None:
        """Write one to the standard error.

        Args:
            step: optimiser steps taken.
            state: what else there is to say.
        """
        now = self._clock()
        self._written, self._next = step, now + self._seconds
        seconds = now - self._begin
        line = f"{self._description}: step {step}"
        if self._total is not None:
            line += f"/{self._total}"
        done = step - self._first
        if seconds > 0:
            line += f", {done / seconds:.3g} steps/s"
            if self._total is not None:
                left = (self._total - step) * seconds / done
                line += f", {tqdm.format_interval(left)} left"
        sys.stderr.write(line + (f", {state}" if state else "") + "\n")
        sys.stderr.flush()
