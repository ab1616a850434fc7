"""The samples of tar shards by number, for what cannot be done with a stream of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from ldm.data.items import SharedEpoch, next_usable
from ldm.data.shards.dataset import DAMAGED, Shards
from ldm.data.shards.decoding import Complaint, UnusableError
from ldm.data.shards.listing import is_remote
from ldm.data.shards.reader import index_shard
from ldm.data.shards.tar import Member
from ldm.errors import DataError
from ldm.files import shown


class ShardItems(Dataset[dict[str, Any]]):
    """The samples of local, uncompressed shards, in the order in which they are stored.

    An item has the crop that ``Shards`` gives it. In place of what cannot be used, which is counted
    and logged, the next sample that can be is taken. The headers of a shard are read when the
    first of its samples is asked for, and forgotten with the first of another shard.

    Args:
        shards: where they are, and what is made of them.

    Raises:
        DataError: they are not local.
    """

    def __init__(self, shards: Shards) -> None:
        for name in filter(is_remote, shards.shards):
            raise DataError(f"shard '{name}' is no local file, of which samples can be picked out")
        self._shards = shards
        self._ends = np.cumsum(shards.sizes)
        self._epoch, self._refused = SharedEpoch(), Complaint()
        self._latest: tuple[int, list[dict[str, Any]]] = (-1, [])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def set_epoch(self, epoch: int) -> None:
        """Give the following items new crops."""
        self._epoch.set(epoch)

    def __getitem__(self, index: int) -> dict[str, Any]:
        _, (image, entries) = next_usable(index, len(self), self._usable, self._complaint)
        return self._shards.framed(int(self._epoch), index, image, entries)

    def _usable(self, number: int) -> tuple[Image.Image, dict[str, Any]] | None:
        sample: dict[str, Any] = {}
        try:
            sample = self._sample(number)
            return self._shards.read(sample)
        except UnusableError as error:
            self._refused.add(sample, str(error))
            self._shards.skips.add(error.reason, f"{error}: the next one is taken instead")
            return None

    def _complaint(self) -> str:
        return (
            f"not one of {len(self)} samples of '{shown(self._shards.shards[0])}' and others is "
            f"usable: {self._shards.skips.counts()}; {self._refused}"
        )

    def _sample(self, number: int) -> dict[str, Any]:
        """The files of a sample, by ending."""
        shard = int(np.searchsorted(self._ends, number, side="right"))
        name, size = self._shards.shards[shard], self._shards.sizes[shard]
        if self._latest[0] != shard:
            self._latest = shard, index_shard(name, self._report, self._shards.naming)
        samples, place = self._latest[1], number - int(self._ends[shard]) + size
        if place >= len(samples):
            raise UnusableError(
                DAMAGED, f"shard '{shown(name)}' has {len(samples)} samples, not {size}"
            )
        try:
            files = samples[place].items()
            return {key: v.read() if isinstance(v, Member) else v for key, v in files}
        except DataError as error:
            raise UnusableError(DAMAGED, str(error)) from error

    def _report(self, text: str) -> None:
        self._shards.skips.add(DAMAGED, text)
