"""Where numbers go: lines of JSON, appended so that a killed run loses none, and TensorBoard."""

from __future__ import annotations

import functools
import json
import math
import threading
from collections.abc import Callable
from os import SEEK_END
from pathlib import Path
from typing import Any, BinaryIO

from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from ldm.training.callbacks.informing import OnlyInforms


class MetricsLog(Logger):
    """Appends ``{"step": 10, "train/loss": 0.5}`` lines to a file: values of, or after, step 10.

    NaN and infinities, for which JSON has no words, become ``null``.

    Args:
        path: the file; created with its first line.
        check: called before each line; an error says why it cannot be written.
    """

    def __init__(self, path: Path, check: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self._path = path
        self._check = check
        self._informs = OnlyInforms(f"{path.name} cannot be written")

    @property
    def name(self) -> str:
        """Name of the log."""
        return "metrics"

    @property
    def version(self) -> str:
        """One file, one version."""
        return "0"

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append one line."""
        with self._informs:
            values = {
                key: value if math.isfinite(value) else None
                for key, value in metrics.items()
                if key != "epoch"
            }
            if values:
                self._append(json.dumps({"step": step, **values}) + "\n")

    def _append(self, line: str) -> None:
        self._check()
        with self._path.open("a+b") as file:
            if file.tell() and _last_byte(file) != b"\n":
                line = "\n" + line  # after one that a kill cut short
            file.write(line.encode())

    @rank_zero_only
    def log_hyperparams(self, *_args: Any, **_kwargs: Any) -> None:
        """The run folder's ``config.yaml`` records them."""


def _last_byte(file: BinaryIO) -> bytes:
    file.seek(-1, SEEK_END)
    return file.read(1)


class TensorBoardLog(TensorBoardLogger):
    """Lightning's logger for TensorBoard, which a full disk only silences.

    Its writer does not recover from an error: it gets nothing more until the run is resumed.

    Args:
        folder: of the run; files go to ``tensorboard`` in it.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, name="tensorboard", version="")
        self._informs = OnlyInforms("TensorBoard")
        _silence_writers()

    @property
    def experiment(self) -> Any:
        """TensorBoard's writer; where it fails, one that does nothing."""
        if not self._informs.failed:
            with self._informs:
                return super().experiment
        return _Nothing()

    @rank_zero_only
    def add_picture(self, name: str, picture: Tensor, step: int) -> None:
        """Show a picture (3, H, W) in [0, 1]."""
        self._try(lambda: self.experiment.add_image(name, picture, step))

    @rank_zero_only
    def log_metrics(self, *args: Any, **kwargs: Any) -> None:
        """See Lightning's."""
        self._try(lambda: super(TensorBoardLog, self).log_metrics(*args, **kwargs))

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """See Lightning's."""
        self._try(lambda: super(TensorBoardLog, self).log_hyperparams(*args, **kwargs))

    @rank_zero_only
    def save(self) -> None:
        """Bring what was logged to the disk."""
        self._try(super().save)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Close the files."""
        self._try(lambda: super(TensorBoardLog, self).finalize(status))

    def _try(self, act: Any) -> None:
        if not self._informs.failed:
            with self._informs:
                act()


class _Nothing:
    """Whose methods do nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


@functools.cache
def _silence_writers() -> None:
    """TensorBoard's threads tell of their errors twice: here, and where they are given more."""
    tell = threading.excepthook

    def unless_writer(error: Any) -> None:
        if not type(error.thread).__module__.startswith("tensorboard."):
            tell(error)

    threading.excepthook = unless_writer
