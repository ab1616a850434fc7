"""How many samples were left out, and why: counted over all workers of a loader."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch.utils.data import get_worker_info

_ROWS = 256
_ALWAYS = 5
"""So many messages of a kind are logged by each worker; then only the 10th, 100th, ..."""

_log = logging.getLogger(__name__)


class Skips:
    """Counts what a data set leaves out, by reason.

    The counts lie in shared memory, a row per worker, so that the process that owns the data set
    sees those of its workers.

    Args:
        reasons: what can be wrong with a sample, in a few words each.
    """

    def __init__(self, reasons: Sequence[str]) -> None:
        self.reasons = tuple(reasons)
        shape = (_ROWS, len(self.reasons))
        self._counts = torch.zeros(shape, dtype=torch.int64, device="cpu").share_memory_()

    def add(self, reason: str, message: str | None = None) -> int:
        """Count one; log a message unless this worker logged many of this reason.

        Returns:
            How many this worker has counted for this reason.
        """
        worker = get_worker_info()
        row = 0 if worker is None else 1 + worker.id % (_ROWS - 1)
        cell = self._counts[row, self.reasons.index(reason)]
        cell += 1
        count = int(cell)
        if message is not None and (count <= _ALWAYS or str(count).strip("0") == "1"):
            _log.warning("%s (%s, number %d)", message, reason, count)
        return count

    def counts(self) -> dict[str, int]:
        """Number of each reason so far, over all workers; reasons without any are left out."""
        totals = self._counts.sum(0).tolist()
        return {reason: int(n) for reason, n in zip(self.reasons, totals, strict=True) if n}
