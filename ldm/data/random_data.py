"""Random data of a declared schema: rehearsals and throughput without a data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from ldm.errors import DataError, check_count

Entries = dict[str, Any]


def _pixels(
    rng: np.random.Generator, _: Entries, size: int | Sequence[int], channels: int = 3
) -> Tensor:
    values = rng.random((channels, *_sides(size)), np.float32) * 2 - 1
    return torch.from_numpy(values)


def _ids(
    rng: np.random.Generator, _: Entries, below: int, shape: Sequence[int] = ()
) -> Tensor | int:
    ids = rng.integers(0, below, tuple(shape))
    return torch.from_numpy(ids) if len(shape) else int(ids)


def _map(
    rng: np.random.Generator, entries: Entries, below: int, size: int | Sequence[int]
) -> Tensor | int:
    return _ids(rng, entries, below, _sides(size))


def _embeddings(rng: np.random.Generator, _: Entries, shape: Sequence[int]) -> Tensor:
    vectors = rng.standard_normal(shape, np.float32)
    return torch.from_numpy(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))


def _hole(rng: np.random.Generator, _: Entries, size: int | Sequence[int]) -> Tensor:
    """Zeros (1, H, W) with a rectangle of ones, a quarter to three quarters of each side."""
    height, width = _sides(size)
    mask = np.zeros((1, height, width), np.float32)
    mask[:, _span(rng, height), _span(rng, width)] = 1
    return torch.from_numpy(mask)  # on the CPU, whatever the default device is


def _span(rng: np.random.Generator, side: int) -> slice:
    length = int(rng.integers(max(side // 4, 1), max(3 * side // 4, 1) + 1))
    start = int(rng.integers(0, side - length + 1))
    return slice(start, start + length)


def _masked(_: np.random.Generator, entries: Entries, image: str, mask: str) -> Tensor:
    return _earlier(entries, image).masked_fill(_earlier(entries, mask) == 1, -1)


def _shrunk(_: np.random.Generator, entries: Entries, image: str, factor: int) -> Tensor:
    return F.avg_pool2d(_earlier(entries, image), factor)


def _sides(size: int | Sequence[int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def _earlier(entries: Entries, name: str) -> Tensor:
    if not isinstance(entries.get(name), Tensor):
        raise DataError(f"needs {name!r} declared before it")
    entry: Tensor = entries[name]
    return entry


KINDS: Mapping[str, Callable[..., Tensor | int]] = {
    "pixels": _pixels,
    "ids": _ids,
    "map": _map,
    "embeddings": _embeddings,
    "hole": _hole,
    "masked": _masked,
    "shrunk": _shrunk,
}


class RandomData(Dataset[dict[str, Any]]):
    """Items of random entries, drawn on the fly; nothing can be learned from them.

    They rehearse a training run, or measure how fast it is, before the data set is there. Item
    ``i`` depends on ``(seed, i)`` and the fields only. A field is ``{kind: ..., ...}``:

    - ``{kind: pixels, size: side or [H, W], channels: 3}``: float (C, H, W), uniform in [-1, 1]
    - ``{kind: ids, below: n}``: an int in [0, n); with ``shape``, a long tensor of them
    - ``{kind: map, below: n, size: side or [H, W]}``: long (H, W) in [0, n)
    - ``{kind: embeddings, shape: [..., D]}``: float vectors of length 1
    - ``{kind: hole, size: side or [H, W]}``: float (1, H, W), a rectangle of ones in zeros
    - ``{kind: masked, image: name, mask: name}``: that image, -1 where that mask is 1
    - ``{kind: shrunk, image: name, factor: f}``: that image, f times smaller, mean of f x f pixels

    Args:
        length: number of items.
        seed: seed of the whole set.
        fields: name and description of every entry, ``image`` among them.

    Raises:
        DataError: an option is out of its range, or a field cannot be drawn.
    """

    def __init__(self, length: int, seed: int = 0, **fields: Mapping[str, Any]) -> None:
        if length < 1 or seed < 0:
            raise DataError(
                f"random data: length {length} must be positive and seed {seed} not negative"
            )
        check_count("length", length)
        if not fields:
            raise DataError("random data: name at least one field, e.g. image")
        self.length = length
        self.seed = seed
        self.fields = {name: dict(field) for name, field in fields.items()}
        for name, field in self.fields.items():
            if field.get("kind") not in KINDS:
                raise DataError(
                    f"random data: kind {field.get('kind')!r} of {name!r} is none of "
                    + ", ".join(KINDS)
                )
        self[0]  # shows now what cannot be drawn

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.length:
            raise IndexError(f"item {index} of {self.length} random ones")
        rng = np.random.default_rng((self.seed, index))
        entries: Entries = {}
        for name, field in self.fields.items():
            options = {key: value for key, value in field.items() if key != "kind"}
            try:
                entries[name] = KINDS[field["kind"]](rng, entries, **options)
            except (TypeError, ValueError, RuntimeError) as error:
                raise DataError(f"random data: {name!r} as {field}: {error}") from error
        return entries
