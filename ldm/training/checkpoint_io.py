"""Checkpoints that are either there and whole, or not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytorch_lightning.plugins.io import CheckpointIO

from ldm.checkpoint import load_training_checkpoint, save
from ldm.errors import CheckpointError
from ldm.training.processes import from_main_process
from ldm.training.resuming import Resumed
from ldm.training.run_folder import RunFolder


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
        if not self._folder.config.exists():
            raise CheckpointError(
                f"{self._folder.path} was removed or renamed while it was trained: the state at "
                f"step {step} cannot be saved"
            )
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
