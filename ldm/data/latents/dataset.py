"""Training on latents that were computed once: the items of a latent cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from ldm.data.items import SharedEpoch
from ldm.data.latents.manifest import Manifest, intact, shard_path
from ldm.data.latents.shard import REPAIR, Item, Shard
from ldm.errors import DataError
from ldm.files import shown

_MIRROR = 2
"""Which draw of an item decides about its mirror image, as in ``Framing.cut``: a cached training
mirrors the same images as one of the same seed that reads them."""


class CachedLatents(Dataset[dict[str, Any]]):
    """Latents and conditions of a data set, memory-mapped; ``scripts/cache_latents.py`` makes them.

    Each item is a dict of all entries of the data set but ``image``, and in its place ``moments``
    (2C, h, w), mean and log-variance of a KL autoencoder's posterior, or ``latents`` (C, h, w), in
    the type in which they are kept. ``LatentDiffusion`` draws a new latent from the moments each
    time. Mirrored items depend on (seed, epoch, index) only. A cache of several epochs of crops
    shows one after the other, and begins again.

    Args:
        root: folder of the cache.
        split: train or validation.
        flip: probability of the mirrored item.
        seed: of these draws.
        key: the one that the cache must have; None accepts any.
        image_size: side of the square images or (height, width), which the cache must have; None
            accepts any.

    Raises:
        DataError: the cache is incomplete, damaged, or another one than it should be.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        flip: float = 0.0,
        seed: int = 0,
        key: str | None = None,
        image_size: int | Sequence[int] | None = None,
    ) -> None:
        self.root = Path(root).expanduser()
        self.manifest = Manifest.load(self.root)
        self._check(split, flip, key, image_size)
        self.split, self.flip, self.seed = split, flip, seed
        self._about = self.manifest.splits[split]
        self._shards: dict[int, Shard] = {}
        self._epoch = SharedEpoch()

    def __len__(self) -> int:
        return self._about.items

    def set_epoch(self, epoch: int) -> None:
        """Give the following items new crops, if there are any, and flips."""
        self._epoch.set(epoch)

    def __getitem__(self, index: int) -> Item:
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of a set of {len(self)}")
        epoch = int(self._epoch)
        number, row = self._about.place(epoch, index)
        return self._shard(number).item(row, self._is_mirrored(epoch, index))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_shards": {}}  # another process maps the files itself

    def _is_mirrored(self, epoch: int, index: int) -> bool:
        if self.flip in (0.0, 1.0):
            return self.flip == 1.0
        draws = np.random.default_rng((self.seed, epoch, index)).random(_MIRROR + 1)
        return bool(draws[_MIRROR] < self.flip)

    def _shard(self, number: int) -> Shard:
        if number not in self._shards:
            _, start, stop = self._about.span(number)
            path = shard_path(self.root, self.split, number)
            self._shards[number] = Shard(path, self.manifest.schema, stop - start)
        return self._shards[number]

    def _check(
        self, split: str, flip: float, key: str | None, image_size: int | Sequence[int] | None
    ) -> None:
        where, manifest = f"latent cache '{shown(self.root)}'", self.manifest
        if not manifest.complete:
            raise DataError(f"{where} is not complete: {REPAIR}")
        if split not in manifest.splits:
            raise DataError(f"{where} has no split '{split}', but {', '.join(manifest.splits)}")
        if not 0 <= flip <= 1:
            raise DataError(f"{where}: flip {flip} is not a probability")
        about = manifest.splits[split]
        if flip > 0 and not about.mirrored:
            raise DataError(
                f"{where} holds no mirrored items of its {split} set: set flip=0, or make it of "
                "data that are mirrored (flip=0.5)"
            )
        if key is not None and key != manifest.recipe.key:
            raise DataError(
                f"{where} is stale: it has the key {manifest.recipe.key[:12]}, the config asks for "
                f"{key[:12]}; autoencoder, data or type of numbers are others. Take the data.yaml "
                "that lies in the cache now, or make the cache anew"
            )
        self._check_size(image_size)
        for number, written in enumerate(about.shards):
            path = shard_path(self.root, split, number)
            if not intact(path, written):
                what = "is missing" if not path.is_file() else f"has not {written.bytes} bytes"
                raise DataError(f"shard '{shown(path)}' {what}: {REPAIR}")

    def _check_size(self, image_size: int | Sequence[int] | None) -> None:
        if image_size is None:
            return
        asked = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        if asked != self.manifest.image_size:
            raise DataError(
                f"latent cache '{shown(self.root)}' is of images of "
                f"{self.manifest.image_size} pixels, the config has {asked}: set image_size, "
                "or make another cache"
            )
