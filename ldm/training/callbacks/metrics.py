"""Metrics as lines of JSON: appended as they come, so a killed or resumed run loses none."""

from __future__ import annotations

import json
import math
from os import SEEK_END
from pathlib import Path
from typing import Any, BinaryIO

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only


class MetricsLog(Logger):
    """Appends ``{"step": 10, "train/loss": 0.5}`` lines to a file: values of, or after, step 10.

    NaN and infinities, for which JSON has no words, become ``null``.

    Args:
        path: the file; created with its first line.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

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
        values = {
            key: value if math.isfinite(value) else None
            for key, value in metrics.items()
            if key != "epoch"
        }
        if values:
            line = json.dumps({"step": step, **values}) + "\n"
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
