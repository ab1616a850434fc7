"""When a run saves its state, and how: checkpoints are there and whole, or not there."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import CheckpointIO

from ldm.checkpoint import load_training_checkpoint, save
from ldm.distributed import from_main_process
from ldm.errors import CheckpointError, TrainingError
from ldm.files import give_second_name, reason, shown
from ldm.training.lightning_internals import hand_signals_to, skip_question_of_signals
from ldm.training.resume import Resumed
from ldm.training.run_folder import RunFolder
from ldm.training.signals import Stop, StopSignals


class SaveCheckpoints(Checkpoint):
    """Saves ``last.ckpt`` between optimiser steps, and ends the run there if it was asked to.

    All processes call it; the main one writes.

    Args:
        folder: the run's folder.
        every: optimiser steps between checkpoints.
        keep: each of so many steps stays as ``step-N.ckpt`` for ever; 0: none.
        signals: whether the run was asked to end.
    """

    def __init__(self, folder: RunFolder, every: int, keep: int, signals: StopSignals) -> None:
        self._folder = folder
        self._every = every
        self._keep = keep
        self._signals = signals
        self._begun = self._saved = self._step = 0
        self._stepping = self._changed = False

    def on_load_checkpoint(self, _trainer: Any, _task: Any, checkpoint: dict[str, Any]) -> None:
        """Keep the best of a run that was moved or copied: Lightning knows it by its old place."""
        place = self._folder.checkpoints.resolve()
        for state in checkpoint.get("callbacks", {}).values():
            if not (isinstance(state, dict) and "best_model_path" in state):
                continue
            for name in ("best_model_path", "kth_best_model_path"):
                state[name] = str(place / Path(state[name]).name) if state[name] else ""
            known = state["best_k_models"].items()
            state["best_k_models"] = {str(place / Path(path).name): score for path, score in known}
            state["dirpath"] = str(place)

    def setup(self, trainer: Any, _task: Any, stage: str) -> None:
        """Take the signals instead of Lightning."""
        hand_signals_to(trainer, self._signals.listen)

    def on_train_start(self, trainer: Any, _task: Any) -> None:
        """Count steps from where a resumed run stands."""
        self._begun = self._saved = self._step = trainer.global_step
        self._signals.listen()
        skip_question_of_signals(trainer)
        for optimizer in trainer.optimizers:
            optimizer.register_step_post_hook(self._note_change)

    def _note_change(self, *_: Any) -> None:
        self._changed = True

    def on_before_optimizer_step(self, *_: Any) -> None:
        """From here on weights may be changed in part, unless a guard stops the step."""
        self._stepping = True

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        """Save if it is time or the run ends.

        Raises:
            Stop: the run was asked to end; its state is saved.
        """
        step = trainer.global_step
        if step == self._step:
            return  # gradients are being accumulated, or the batch was left out
        self._step = step
        self._stepping = self._changed = False
        asked = self._signals.agreed(trainer.strategy.root_device)
        kept = self._keep > 0 and step % self._keep == 0
        if asked or kept or step % self._every == 0:
            self._save(trainer)
        if kept and trainer.is_global_zero:
            self._give_name_for_ever(step)
        if asked and step != trainer.max_steps:
            raise Stop

    def on_train_end(self, trainer: Any, _task: Any) -> None:
        """Save the end of a run, once more if the last step is saved: by now it is logged, too."""
        if trainer.global_step != self._begun:
            self._save(trainer)

    def on_exception(self, trainer: Any, _task: Any, exception: BaseException) -> None:
        """Save where steps would be lost and the state is that between two steps.

        A ``TrainingError`` is raised by a guard, before the step changes anything. Not with several
        processes: the others may be anywhere, and saving waits for them.
        """
        untouched = not self._stepping or isinstance(exception, TrainingError)
        clean = trainer.training and untouched and not self._changed
        if (
            self._saved != self._step
            and clean
            and trainer.world_size == 1
            and not isinstance(exception, CheckpointError)
        ):
            with contextlib.suppress(CheckpointError):  # the exception says more
                self._save(trainer)

    def _save(self, trainer: Any) -> None:
        trainer.save_checkpoint(self._folder.last)
        self._saved = self._step

    def _give_name_for_ever(self, step: int) -> None:
        kept = self._folder.kept(step)
        try:
            give_second_name(self._folder.last, kept)
        except OSError as error:
            raise CheckpointError(f"{shown(kept)} cannot be written: {reason(error)}") from error


class AtomicCheckpointIO(CheckpointIO):
    """Writes to a temporary file and renames it; reads without ever running code.

    What ``last.ckpt`` held before stays as ``previous.ckpt``.

    Args:
        folder: the run's folder.
        resumed: the checkpoint that the run is resumed from, which the main process has read.
    """

    def __init__(self, folder: RunFolder, resumed: Resumed | None = None) -> None:
        self._folder = folder
        self._resumed = resumed
        self._last_step = None if resumed is None else resumed.step

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write ``checkpoint`` to ``path``, replacing it only once the new file is complete.

        Raises:
            CheckpointError: it cannot be written, or the folder of the run is gone.
        """
        path, step = Path(path), checkpoint["global_step"]
        if why := self._folder.why_lost():
            raise CheckpointError(f"{why}: the state at step {step} cannot be saved")
        is_last = path == self._folder.last
        new_step = is_last and step != self._last_step
        save(checkpoint, path, keep=self._folder.previous if new_step else None)
        if is_last:
            self._last_step = step

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read tensors and plain values, from the file that the main process has chosen."""
        path = from_main_process(str(path))
        content = None if self._resumed is None else self._resumed.take()
        return content or load_training_checkpoint(path, map_location)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete a checkpoint that a better one replaces."""
        Path(path).unlink(missing_ok=True)
