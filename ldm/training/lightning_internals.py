"""What this library uses of Lightning that Lightning does not promise to keep.

No other module touches its private parts. Each function below rests on names that are looked for
when this module is imported: a version of Lightning that lacks one is refused at once, rather than
in the midst of a training. The tests say what each touch is to do.
"""

from __future__ import annotations

import inspect
import subprocess
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop
from pytorch_lightning.plugins.precision import MixedPrecision
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher
from pytorch_lightning.trainer.connectors.logger_connector import _LoggerConnector

HOLDS_FOR = ("2.6",)
"""Versions of Lightning whose parts these are known to be."""
FETCH = "[_TrainingEpochLoop].train_dataloader_next"
"""Action of which a profiler is told while the loop waits for a batch."""
BATCH = "run_training_batch"
"""The same around forward pass, backward pass and optimiser step."""

USED: dict[str, Callable[..., Any]] = {
    "_signal_connector": pl.Trainer.__init__,
    "_logger_connector": pl.Trainer.__init__,
    "register_signal_handlers": pl.Trainer._run,
    "_broadcast_sigterm_tensor": _TrainingEpochLoop.advance,
    "should_update_logs": _LoggerConnector.update_train_step_metrics,
    "_batches_that_stepped": _TrainingEpochLoop.on_save_checkpoint,
    "].train_dataloader_next": _TrainingEpochLoop._on_before_fetch,
    BATCH: _TrainingEpochLoop.advance,
    "procs": _SubprocessScriptLauncher.__init__,
    "scaler": MixedPrecision.__init__,
}
"""Names, and functions of Lightning that mention them."""


def refuse_other_versions() -> None:
    """Look for the names.

    Raises:
        ImportError: one is gone.
    """
    codes = {name: inspect.unwrap(function).__code__ for name, function in USED.items()}
    gone = [name for name, code in codes.items() if name not in code.co_names + code.co_consts]
    if gone:
        raise ImportError(
            f"pytorch-lightning {pl.__version__} has no {', '.join(gone)} where this library needs "
            f"it: install a version that begins with {' or '.join(HOLDS_FOR)}"
        )


refuse_other_versions()


def hand_signals_to(trainer: pl.Trainer, listen: Callable[[], None]) -> None:
    """Call ``listen`` where Lightning would take the signals of the process.

    Its own handlers talk to the other processes from within, whatever these are doing, and under
    SLURM write checkpoints of another kind and requeue the job.
    """
    trainer._signal_connector.register_signal_handlers = listen  # type: ignore[method-assign]


def skip_question_of_signals(trainer: pl.Trainer) -> None:
    """Keep Lightning from asking the other processes before each batch whether a signal came.

    A GPU is waited for, and the handler that Lightning asks about is never called.
    """
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]


def unlogged_metrics(trainer: pl.Trainer) -> dict[str, float]:
    """What Lightning will log of the present batch after the hooks of its end."""
    connector = trainer._logger_connector
    if not connector.should_update_logs:
        return {}
    return {name: float(value) for name, value in connector.metrics["log"].items()}


def validate_now(trainer: pl.Trainer) -> None:
    """Validate before the first batch of an epoch, which Lightning does within one only."""
    trainer.validating = True
    trainer.fit_loop.epoch_loop.val_loop.run()
    trainer.training = True


def loss_scaler(trainer: pl.Trainer) -> Any:
    """What scales gradients against float16's underflow; None in other precisions."""
    return getattr(trainer.precision_plugin, "scaler", None)


def starts_processes(trainer: pl.Trainer) -> bool:
    """Whether Lightning starts the other processes of this computer from this one."""
    return isinstance(trainer.strategy.launcher, _SubprocessScriptLauncher)


def take_children(trainer: pl.Trainer) -> list[subprocess.Popen[bytes]]:
    """The processes that Lightning started, of which it knows no more from now on.

    Of one in its list that ends Lightning kills this process too.
    """
    running = getattr(trainer.strategy.launcher, "procs", [])
    children = list(running)
    running.clear()
    return children


def write_loops(
    trainer: pl.Trainer, loops: dict[str, Any], batches: int, taken: int, epoch: int, due: bool
) -> bool:
    """Say, in the state of Lightning's loops, that training was cut off right after a batch.

    What its checkpoints hold depends on the hook from which they were saved, and is resumed in as
    many ways. There are two here: within an epoch, and before the first batch of one.

    Args:
        trainer: Lightning's.
        loops: state of the fit loop, which is changed.
        batches: of optimiser steps, done since the run began.
        taken: the same of the present epoch.
        epoch: the present one.
        due: validation after the last batch is still to come.

    Returns:
        Whether it is due and Lightning will not come to it by itself.
    """
    parts = trainer.accumulate_grad_batches
    total, current = batches * parts, taken * parts
    within = current > 0
    # A loop that Lightning takes to be restarted completes the last batch by itself.
    restarted = within or trainer.max_steps != -1
    begun = due and restarted  # its last batch is counted when validation is over
    loops["epoch_loop.val_loop.batch_progress"] = _progress(
        *((0, 0, -1, -1) if begun else 4 * (0,))
    )
    loops["epoch_progress"] = _progress(epoch + within, epoch + within, epoch, epoch)
    del loops["epoch_progress"]["is_last_batch"]
    progress = _progress(total, total, total, total - restarted)
    progress["current"] = _counts(current, current, current, current - restarted)
    loops["epoch_loop.batch_progress"] = progress
    loops["epoch_loop.state_dict"] = {"_batches_that_stepped": batches - restarted - begun}
    return due and not restarted


def _progress(ready: int, started: int, processed: int, completed: int) -> dict[str, Any]:
    """Lightning's record of how far a loop is."""
    counts = _counts(ready, started, processed, completed)
    return {"total": counts, "current": dict(counts), "is_last_batch": False}


def _counts(ready: int, started: int, processed: int, completed: int) -> dict[str, int]:
    return {"ready": ready, "started": started, "processed": processed, "completed": completed}
