"""The epoch of a data set, which its draws depend on."""

from __future__ import annotations

import torch
from torch.utils.data import get_worker_info


class SharedEpoch:
    """An epoch that is set for all loader workers, or by one of them for itself.

    It lies in shared memory, so that workers that outlive an epoch see the change. What a worker
    sets is its own: the batch at the end of an epoch has items of two, and the other workers are
    in the next one.
    """

    def __init__(self) -> None:
        self._shared = torch.zeros((), dtype=torch.int64, device="cpu").share_memory_()
        self._own: int | None = None

    def __int__(self) -> int:
        return int(self._shared) if self._own is None else self._own

    def set(self, epoch: int) -> None:
        """Choose the epoch of the following items."""
        if get_worker_info() is None:
            self._shared.fill_(epoch)
        else:
            self._own = epoch
