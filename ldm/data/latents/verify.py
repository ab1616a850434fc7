"""Whether a latent cache still holds what it should."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldm.data.latents.manifest import Manifest, Split, shard_path
from ldm.data.latents.shard import REPAIR, Item, Shard
from ldm.data.latents.writer import Encoder, ItemPairs, same
from ldm.errors import CheckpointError, DataError
from ldm.files import file_sha256, reason, shown

TOLERANCE = {"fp32": 1e-3, "bf16": 1e-2}
"""Largest difference between a kept latent and the same encoded anew, as a share of the largest
magnitude of its channel: other hardware and batches, and the rounding of bfloat16 (1/256)."""


def verify_sums(root: Path, manifest: Manifest, progress: Callable[[int], object]) -> None:
    """Read all shards and compare their checksums; ``progress`` is told how many bytes were read.

    Raises:
        DataError: a shard is missing or differs; it is named.
    """
    for split, about in manifest.splits.items():
        for number, written in enumerate(about.shards):
            path = shard_path(root, split, number)
            try:
                found = file_sha256(path)
            except (OSError, CheckpointError) as error:
                raise DataError(
                    f"shard '{shown(path)}' cannot be read ({reason(error)}): {REPAIR}"
                ) from None
            if found != written.sha256:
                raise DataError(
                    f"shard '{shown(path)}' is damaged, its checksum is another: {REPAIR}"
                )
            _, start, stop = about.span(number)
            Shard(path, manifest.schema, stop - start)
            progress(written.bytes)


def verify_items(
    root: Path, manifest: Manifest, split: str, pairs: ItemPairs, encode: Encoder, count: int
) -> float:
    """Encode some items of a split anew and compare them with what is kept.

    Returns:
        The largest difference of a latent, as a share of the largest magnitude of its channel.

    Raises:
        DataError: an item differs; it is named.
    """
    about, worst = manifest.splits[split], 0.0
    rng = np.random.default_rng(int(manifest.recipe.key[:8], 16))
    for row in rng.choice(about.items * about.epochs, min(count, about.items), replace=False):
        epoch, index = divmod(int(row), about.items)
        pairs.set_epoch(epoch)
        where = f"item {index} of the {split} set"
        for mirrored, item in enumerate(pairs[index]):
            if item is not None:
                fresh = encode([item], where)[0]
                kept = _kept(root, manifest, about, split, epoch, index, bool(mirrored))
                worst = max(worst, _compare(kept, fresh, encode.entry, where, root))
    if worst > TOLERANCE[manifest.recipe.dtype]:
        raise DataError(
            f"latent cache '{shown(root)}': latents of the {split} set differ by {worst:.2g} of "
            "their largest magnitude from those of the images now: delete it and make it anew"
        )
    return worst


def _kept(
    root: Path, manifest: Manifest, about: Split, split: str, epoch: int, index: int, mirrored: bool
) -> Item:
    number, row = about.place(epoch, index)
    _, start, stop = about.span(number)
    shard = Shard(shard_path(root, split, number), manifest.schema, stop - start)
    return shard.item(row, mirrored)


def _compare(kept: Item, fresh: dict[str, Any], entry: str, where: str, root: Path) -> float:
    for name, value in fresh.items():
        if name != entry and not same(kept.get(name), value):
            raise DataError(
                f"latent cache '{shown(root)}': {name!r} of {where} is not what the data set has "
                "now: delete the cache and make it anew"
            )
    one, other = kept[entry].float(), fresh[entry].float()
    if one.shape != other.shape:
        return float("inf")
    return _share(one, other)


def _share(one: Tensor, other: Tensor) -> float:
    """Largest difference as a share of the largest magnitude of its channel."""
    size = torch.maximum(one.abs(), other.abs()).amax((-2, -1), keepdim=True)
    return float(((one - other).abs() / size.clamp_min(1e-3 * float(size.max()) + 1e-12)).max())
