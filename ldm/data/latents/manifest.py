"""What a latent cache holds, and what it was made of: its ``manifest.json``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ldm.compat.moved import with_current_names
from ldm.data.latents.shard import Schema, Written
from ldm.errors import DataError
from ldm.files import write_text

FORMAT = 1
FILE = "manifest.json"
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


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
        write_text(
            root / FILE, json.dumps({"key": self.recipe.key} | asdict(self), indent=1) + "\n"
        )

    @staticmethod
    def load(root: Path) -> Manifest:
        """Read what ``save`` wrote.

        Raises:
            DataError: it is missing, damaged or of another version.
        """
        path = root / FILE
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
            if tree["recipe"]["format"] != FORMAT:
                raise DataError(
                    f"'{path}' has format {tree['recipe']['format']}, this version reads {FORMAT}: "
                    "make the cache anew with scripts/cache_latents.py"
                )
            height, width = tree["image_size"]
            splits = {name: _split(value) for name, value in tree["splits"].items()}
            recipe = Recipe(**tree["recipe"])
            return Manifest(recipe, (height, width), tree["schema"], splits, tree["versions"])
        except FileNotFoundError:
            raise DataError(
                f"'{root}' is no latent cache, it has no {FILE}: make one with "
                "scripts/cache_latents.py"
            ) from None
        except DataError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"'{path}' is no manifest of a latent cache ({error!r}): make the cache anew with "
                "scripts/cache_latents.py"
            ) from None


def shard_path(root: Path, split: str, number: int) -> Path:
    """File of a shard."""
    return root / split / f"{number:05d}.safetensors"


def intact(path: Path, written: Written) -> bool:
    """Whether a file has the size that it should have; its content is not read."""
    return path.is_file() and path.stat().st_size == written.bytes


def _split(tree: dict[str, Any]) -> Split:
    return Split(**{**tree, "shards": tuple(Written(**shard) for shard in tree["shards"])})


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, (dict, list)) or not value:
        return {path: value}
    children = value.items() if isinstance(value, dict) else enumerate(value)
    return {
        key: leaf
        for name, child in children
        for key, leaf in _flat(child, f"{path}.{name}" if path else str(name)).items()
    }
