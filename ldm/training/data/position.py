"""Where training stands in its data, and how Lightning's loops are put there again."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl


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
            "unlogged": self._pending_metrics(trainer),
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
            self._write_loops(trainer, checkpoint["loops"]["fit_loop"])

    def on_train_start(self, trainer: Any, _task: Any) -> None:
        """Log what the run was killed before it could log, and validate if that was due."""
        values, self._unlogged = self._unlogged, {}
        if values:
            step = int(values.get("step", self.batches))
            for logger in trainer.loggers:
                logger.log_metrics({k: v for k, v in values.items() if k != "step"}, step=step)
        if self._validate_first:  # Lightning does it by itself only within an epoch
            self._validate_first, trainer.validating = False, True
            trainer.fit_loop.epoch_loop.val_loop.run()
            trainer.training = True

    def _pending_metrics(self, trainer: Any) -> dict[str, float]:
        connector = trainer._logger_connector
        if not self._batch_ended or not connector.should_update_logs:
            return {}
        return {name: float(value) for name, value in connector.metrics["log"].items()}

    def _write_loops(self, trainer: Any, loops: dict[str, Any]) -> None:
        """Say, in Lightning's terms, that training was cut off right after a batch.

        What its checkpoints hold depends on the hook from which they were saved, and is resumed in
        as many ways. There are two here: within an epoch, and before the first batch of one.
        """
        parts = trainer.accumulate_grad_batches
        total, current, epoch = self.batches * parts, self.taken * parts, self.epoch
        within = current > 0
        counts_epochs = trainer.max_steps == -1
        # A loop that Lightning takes to be restarted completes the last batch by itself.
        restarted = within or not counts_epochs
        logged = self.batches - restarted
        due = self._must_validate(trainer, total)
        self._validate_first = due and not restarted
        if due and restarted:
            logged -= 1  # counted when validation is over
            loops["epoch_loop.val_loop.batch_progress"] = _progress(0, 0, -1, -1)
        else:
            loops["epoch_loop.val_loop.batch_progress"] = _progress(0, 0, 0, 0)
        loops["epoch_progress"] = _progress(epoch + within, epoch + within, epoch, epoch)
        del loops["epoch_progress"]["is_last_batch"]
        batches = _progress(total, total, total, total - restarted)
        batches["current"] = _counts(current, current, current, current - restarted)
        loops["epoch_loop.batch_progress"] = batches
        loops["epoch_loop.state_dict"] = {"_batches_that_stepped": logged}

    def _must_validate(self, trainer: Any, total: int) -> bool:
        """Whether validation after the last batch was due but is not in the checkpoint."""
        every = trainer.val_check_interval
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


def _progress(ready: int, started: int, processed: int, completed: int) -> dict[str, Any]:
    """Lightning's record of how far a loop is."""
    counts = _counts(ready, started, processed, completed)
    return {"total": counts, "current": dict(counts), "is_last_batch": False}


def _counts(ready: int, started: int, processed: int, completed: int) -> dict[str, int]:
    return {"ready": ready, "started": started, "processed": processed, "completed": completed}
