"""Where training stands in its data, and how Lightning's loops are put there again."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl

from ldm.training.lightning_internals import unlogged_metrics, validate_now, write_loops


class Position(pl.Callback):
    """Counts batches of optimiser steps, and resumes exactly after the last that was completed.

    A batch is that of one optimiser step, over all processes and accumulated parts. The counts do
    not depend on how many of these there are, so that a run may be resumed with others.

    Attributes:
        batches: completed since the run began.
        epoch: the present one.
        taken: batches completed in it.
        part: parts completed of the present batch.
    """

    def __init__(self) -> None:
        self.batches = self.epoch = self.taken = self.part = 0
        self._validated = 0
        self._batch_ended = False
        self._unlogged: dict[str, float] = {}
        self._validate_first = False

    def on_train_epoch_start(self, trainer: Any, _task: Any) -> None:
        """Begin to count anew; a run that is resumed within an epoch does not come here."""
        self.epoch, self.taken = trainer.current_epoch, 0

    def on_train_batch_start(self, *_: Any) -> None:
        """The last batch is done with."""
        self._batch_ended = False

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        """Count."""
        self.part += 1
        if self.part == trainer.accumulate_grad_batches or trainer.is_last_batch:
            self.part = 0
            self.batches += 1
            self.taken += 1
            self._batch_ended = True

    def on_validation_start(self, *_: Any) -> None:
        """The numbers of the last batch are logged later, but as part of the validation's step."""
        self._batch_ended = False

    def on_train_epoch_end(self, *_: Any) -> None:
        """The numbers of the last batch are logged by now."""
        self._batch_ended = False

    def on_validation_end(self, trainer: Any, _task: Any) -> None:
        """Remember when."""
        if not trainer.sanity_checking:
            self._validated = self.batches

    def on_save_checkpoint(self, trainer: Any, _task: Any, checkpoint: dict[str, Any]) -> None:
        """Store the counts, and what Lightning will log of the batch only after this moment."""
        data = trainer.datamodule
        epoch, taken = self.epoch, self.taken
        count = data.batches_in(epoch) if hasattr(data, "batches_in") else None
        if trainer.is_last_batch or (count is not None and taken >= count):
            epoch, taken = epoch + 1, 0
        checkpoint["position"] = {
            "batches": self.batches,
            "epoch": epoch,
            "taken": taken,
            "batch_size": getattr(data, "batch_size", 0),
            "validated": self._validated,
            "unlogged": unlogged_metrics(trainer) if self._batch_ended else {},
        }

    def on_load_checkpoint(self, trainer: Any, _task: Any, checkpoint: dict[str, Any]) -> None:
        """Take the counts on, and rewrite the state of Lightning's loops to agree with them."""
        saved = checkpoint.get("position") or _of_old_checkpoint(checkpoint)
        self.batches, self._validated = saved["batches"], saved["validated"]
        self.epoch, self.taken = saved["epoch"], saved["taken"]
        self._unlogged = saved["unlogged"]
        data = trainer.datamodule
        if hasattr(data, "start_at"):
            size = saved["batch_size"] or data.batch_size
            self.epoch, self.taken = data.start_at(self.epoch, self.taken * size)
        if "loops" in checkpoint:
            loops = checkpoint["loops"]["fit_loop"]
            due = self._must_validate(trainer)
            place = (self.batches, self.taken, self.epoch)
            self._validate_first = write_loops(trainer, loops, *place, due)

    def on_train_start(self, trainer: Any, _task: Any) -> None:
        """Log what the run was killed before it could log, and validate if that was due."""
        values, self._unlogged = self._unlogged, {}
        if values:
            step = int(values.get("step", self.batches))
            for logger in trainer.loggers:
                logger.log_metrics({k: v for k, v in values.items() if k != "step"}, step=step)
        if self._validate_first:  # Lightning does it by itself only within an epoch
            self._validate_first = False
            validate_now(trainer)

    def _must_validate(self, trainer: Any) -> bool:
        """Whether validation after the last batch was due but is not in the checkpoint."""
        every, total = trainer.val_check_interval, self.batches * trainer.accumulate_grad_batches
        due = isinstance(every, int) and trainer.check_val_every_n_epoch is None
        return due and total > 0 and total % every == 0 and self._validated != self.batches


def _of_old_checkpoint(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """A position for a checkpoint that has none: the beginning of its epoch."""
    step = checkpoint["global_step"]
    return {
        "batches": step,
        "epoch": checkpoint["epoch"],
        "taken": 0,
        "batch_size": 0,
        "validated": step,
        "unlogged": {},
    }
