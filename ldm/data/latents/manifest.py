"""What a latent cache holds, and what it was made of: its ``manifest.json``."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ldm.compat.moved import with_current_names
from ldm.containers.notes import with_checksum, without_checksum
from ldm.data.latents.shard import KINDS, Schema, Written
from ldm.errors import DataError
from ldm.files import read_text, reason, shown, write_text

REMAKE = "make the cache anew with scripts/cache_latents.py"
FORMAT = 1
FILE = "manifest.json"
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
_MOST = 1 << 48
"""No count is larger."""


@dataclass(frozen=True)
class Recipe:
    """All that decides what a cache holds.

    Attributes:
        autoencoder: fingerprint of its weights, see ``ldm.autoencoders.base``.
        transform: the resolved nodes of the data sets, and what was done with their items.
        dtype: fp32 or bf16, in which latents are kept.
        format: version of the files.
    """

    autoencoder: str
    transform: dict[str, Any]
    dtype: str
    format: int = FORMAT

    @property
    def key(self) -> str:
        """SHA-256 of all of it: equal keys, equal latents."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def differences(self, other: Recipe) -> list[str]:
        """What the other one has in another way, by dotted names; none: they make the same cache.

        Classes count by what they are called now: a cache keeps the recipe, and with it the key,
        that was written when it was begun.
        """
        mine, theirs = (_flat(with_current_names(asdict(recipe))) for recipe in (self, other))
        return sorted(k for k in mine.keys() | theirs.keys() if mine.get(k) != theirs.get(k))


@dataclass(frozen=True)
class Split:
    """The shards of a data set, epoch after epoch; the last one of an epoch may hold less.

    Attributes:
        items: of an epoch.
        epochs: of crops and other draws.
        mirrored: whether every item is there mirrored, too.
        rows: items of a shard.
        shards: what is known of each; none while the cache is being made.
    """

    items: int
    epochs: int
    mirrored: bool
    rows: int
    shards: tuple[Written, ...] = ()

    @property
    def per_epoch(self) -> int:
        """Shards of an epoch."""
        return -(-self.items // self.rows)

    @property
    def count(self) -> int:
        """Shards of all epochs."""
        return self.per_epoch * self.epochs

    def place(self, epoch: int, index: int) -> tuple[int, int]:
        """Number of the shard of an item, and its row there."""
        return (epoch % self.epochs) * self.per_epoch + index // self.rows, index % self.rows

    def span(self, number: int) -> tuple[int, int, int]:
        """Epoch, first item and the one after the last, of a shard."""
        epoch, part = divmod(number, self.per_epoch)
        return epoch, part * self.rows, min((part + 1) * self.rows, self.items)


@dataclass(frozen=True)
class Manifest:
    """A latent cache.

    Attributes:
        recipe: what it was made of.
        image_size: height and width of the images, in pixels.
        schema: what the items hold.
        splits: the data sets, by name.
        versions: of the libraries that made it; they are no part of the key.
    """

    recipe: Recipe
    image_size: tuple[int, int]
    schema: Schema
    splits: dict[str, Split]
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether all shards are there."""
        return all(len(split.shards) == split.count for split in self.splits.values())

    def with_shards(self, shards: Mapping[str, tuple[Written, ...]]) -> Manifest:
        """The same with what is known of the shards of each split."""
        splits = {name: replace(s, shards=shards[name]) for name, s in self.splits.items()}
        return replace(self, splits=splits)

    def save(self, root: Path) -> None:
        """Write it into the folder of the cache, complete or not at all."""
        tree = {"key": self.recipe.key} | asdict(self)
        text = json.dumps(with_checksum(tree), indent=1)
        write_text(root / FILE, text + "\n")

    @staticmethod
    def load(root: Path) -> Manifest:
        """Read what ``save`` wrote, or an earlier release, which wrote no checksum.

        Raises:
            DamagedManifestError: it is not what was written.
            DataError: it is missing or of another version.
        """
        path = root / FILE
        if not os.path.lexists(path):
            raise DataError(
                f"'{shown(root)}' is no latent cache, it has no {FILE}: make one with "
                "scripts/cache_latents.py"
            )
        try:
            return _manifest(_table(json.loads(read_text(path))))
        except _OtherFormatError as error:
            raise DataError(f"'{shown(path)}' {error}: {REMAKE}") from None
        except (
            OSError,
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            RecursionError,
        ) as error:
            raise DamagedManifestError(
                f"'{shown(path)}' is no manifest of a latent cache ({reason(error)}): {REMAKE}"
            ) from None


class DamagedManifestError(DataError):
    """A manifest that is not what was written: what the cache holds is not known."""


class _OtherFormatError(DataError):
    """A manifest of another version."""


def _manifest(tree: dict[str, Any]) -> Manifest:
    """What the values of a file say."""
    about = _table(tree["recipe"])
    if about["format"] != FORMAT:
        raise _OtherFormatError(f"has format {about['format']}, this version reads {FORMAT}")
    tree = without_checksum(tree)
    recipe = Recipe(**about)
    _table(recipe.transform)
    if recipe.dtype not in DTYPES or tree.get("key") != recipe.key:
        raise DataError("its key is not that of its recipe")
    height, width = (_count(side) for side in tree["image_size"])
    schema = {str(name): _known(_table(column)) for name, column in _table(tree["schema"]).items()}
    splits = {name: _split(_table(value)) for name, value in _table(tree["splits"]).items()}
    return Manifest(recipe, (height, width), schema, splits, _table(tree["versions"]))


def as_written(tree: Any) -> Written:
    """What a file says of a shard.

    Raises:
        DataError: it says something else.
    """
    found = _table(tree)
    if found.keys() != {"sha256", "bytes"} or not isinstance(found["sha256"], str):
        raise DataError("it does not say what a shard is")
    return Written(found["sha256"], _count(found["bytes"]))


def shard_path(root: Path, split: str, number: int) -> Path:
    """File of a shard."""
    return root / split / f"{number:05d}.safetensors"


def intact(path: Path, written: Written) -> bool:
    """Whether a file has the size that it should have; its content is not read."""
    return path.is_file() and path.stat().st_size == written.bytes


def _split(tree: dict[str, Any]) -> Split:
    sizes = {name: _count(tree[name]) for name in ("items", "epochs", "rows")}
    shards = tuple(as_written(shard) for shard in tree["shards"])
    split = Split(**{**tree, **sizes, "shards": shards})
    if not isinstance(split.mirrored, bool) or len(shards) > split.count:
        raise DataError("a split does not say what it holds")
    return split


def _known(column: dict[str, Any]) -> dict[str, Any]:
    """A column of a schema that can be read."""
    if column["kind"] not in KINDS:
        raise DataError(f"entries of an unknown kind, {str(column['kind'])[:40]!r}")
    if column["kind"] == "tensor" and not isinstance(getattr(torch, column["dtype"]), torch.dtype):
        raise DataError(f"tensors of an unknown type, {column['dtype'][:40]!r}")
    return column


def _table(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"a {type(value).__name__} in place of values by name")
    return value


def _count(value: Any) -> int:
    """A whole number of things that there are."""
    if type(value) is not int or not 0 < value < _MOST:
        raise DataError(f"{str(value)[:40]} in place of a count")
    return value


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, (dict, list)) or not value:
        return {path: value}
    children = value.items() if isinstance(value, dict) else enumerate(value)
    return {
        key: leaf
        for name, child in children
        for key, leaf in _flat(child, f"{path}.{name}" if path else str(name)).items()
    }
