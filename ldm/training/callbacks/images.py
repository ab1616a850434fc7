"""Pictures of a training: grids of samples and loss curves."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_only
from torchvision.utils import make_grid, save_image

from ldm.files import write_atomically
from ldm.training.callbacks.ema import EMACallback
from ldm.training.callbacks.informing import OnlyInforms
from ldm.training.callbacks.metrics import TensorBoardLog
from ldm.visualization.curves import draw_curves
from ldm.visualization.images import as_rgb


class EpochOfData(pl.Callback):
    """Tells the data which epoch it is in, so that order and augmentations differ from the last.

    Data sets with a ``set_epoch`` method derive crops and flips from (seed, epoch, index).
    """

    def on_train_epoch_start(self, trainer: Any, _task: Any) -> None:
        """Pass the epoch on."""
        if hasattr(trainer.datamodule, "set_epoch"):
            trainer.datamodule.set_epoch(trainer.current_epoch)


class PictureGrid(pl.Callback):
    """Draws ``task.preview(batch)`` to ``folder/step-N.png`` and to TensorBoard.

    Args:
        folder: where the PNG files go.
        every: optimiser steps between pictures.
        columns: pictures per row.
        ema: callback whose averaged weights draw the pictures.
        pause: called before a picture is drawn: that is no training.
        check: called before a picture is written; an error says why it cannot be.
    """

    def __init__(
        self,
        folder: Path,
        every: int,
        columns: int = 8,
        ema: EMACallback | None = None,
        pause: Callable[[], None] = lambda: None,
        check: Callable[[], object] = lambda: None,
    ) -> None:
        self.folder = folder
        self.every = every
        self.columns = columns
        self._ema = ema
        self._pause = pause
        self._check = check
        self._batch: dict[str, Any] | None = None
        self._last_step = 0
        self._informs = OnlyInforms(f"a picture for {folder.name}")

    def on_train_start(self, trainer: Any, _task: Any) -> None:
        """Keep the first validation batch: every picture shows the same conditions."""
        self._batch = next(iter(trainer.datamodule.val_dataloader()), None)
        self._last_step = trainer.global_step

    @rank_zero_only
    def on_train_batch_end(self, trainer: Any, task: Any, *_args: Any) -> None:
        """Draw if it is time."""
        step = trainer.global_step
        if step % self.every == 0 and step != self._last_step:
            self._last_step = step
            with self._informs:
                self._draw(trainer, task, step)

    def _draw(self, trainer: Any, task: Any, step: int) -> None:
        self._pause()
        average = self._ema.ema if self._ema is not None else None
        was_training = task.training
        task.eval()
        try:
            with average.applied(task.model) if average is not None else nullcontext():
                pictures = task.preview(self._batch).float().cpu()
        finally:
            task.train(was_training)
        grid = make_grid(as_rgb(pictures).clamp(-1, 1).add(1).div(2), nrow=self.columns)
        self._check()
        self.folder.mkdir(exist_ok=True)  # in a folder that is gone it must not come back
        write_atomically(
            self.folder / f"step-{step:07d}.png",
            lambda file: save_image(grid, file, format="png"),
        )
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLog):
                logger.add_picture("preview", grid, step)


class LossCurves(pl.Callback):
    """Redraws ``curves.png`` from ``metrics.jsonl`` after every validation and at the end.

    Args:
        metrics: the file that ``MetricsLog`` writes.
        out: the picture.
    """

    def __init__(self, metrics: Path, out: Path) -> None:
        self._metrics = metrics
        self._out = out
        self._informs = OnlyInforms(f"{out.name} cannot be drawn")

    @rank_zero_only
    def on_validation_end(self, trainer: Any, _task: Any) -> None:
        """Redraw, unless this was Lightning's check before training."""
        if not trainer.sanity_checking:
            self._draw()

    @rank_zero_only
    def on_fit_end(self, _trainer: Any, _task: Any) -> None:
        """Redraw with the last steps."""
        self._draw()

    def _draw(self) -> None:
        with self._informs:
            if self._metrics.exists():
                draw_curves(self._metrics, self._out)
