"""One progress bar over all optimiser steps of a run."""

from __future__ import annotations

import sys
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_only
from tqdm import tqdm

_REFRESH_LOSS_EVERY = 10  # reading the loss waits for the device


class StepProgress(pl.Callback):
    """Shows step, total, loss, speed and remaining time.

    Args:
        description: text in front of the bar.
    """

    def __init__(self, description: str) -> None:
        self._description = description
        self._bar: tqdm[Any] | None = None

    @rank_zero_only
    def on_train_start(self, trainer: pl.Trainer, _task: pl.LightningModule) -> None:
        """Open the bar where the run stands."""
        self._bar = tqdm(
            total=int(trainer.estimated_stepping_batches),
            initial=trainer.global_step,
            desc=self._description,
            unit="step",
            dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 15,
        )

    @rank_zero_only
    def on_train_batch_end(
        self, trainer: pl.Trainer, _task: pl.LightningModule, *_args: Any
    ) -> None:
        """Advance by the optimiser steps taken."""
        if self._bar is None:
            return
        if trainer.global_step % _REFRESH_LOSS_EVERY == 0:
            loss = trainer.progress_bar_metrics.get("loss")
            if loss is not None:
                self._bar.set_postfix(loss=f"{float(loss):.4f}", refresh=False)
        self._bar.update(trainer.global_step - self._bar.n)

    @rank_zero_only
    def on_fit_end(self, _trainer: pl.Trainer, _task: pl.LightningModule) -> None:
        """Leave the finished bar on the screen."""
        self._close()

    def on_exception(self, *_args: Any) -> None:
        """Leave the bar where the run stopped."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
