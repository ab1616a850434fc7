"""One file of a latent cache: items as columns of a .safetensors file, read lazily.

Every item has a checksum of its own (CRC-32 over its entries in the order of their names), which is
compared whenever the item is read: nothing but that item has to be read for it.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldm.containers.tensors import read_tensors, serialised
from ldm.errors import DamagedFileError, DataError
from ldm.files import reason, shown, write_atomically

Item = dict[str, Any]
Schema = dict[str, dict[str, Any]]
"""What the items hold: name -> kind (tensor, int, float, bool, text), and type and shape."""

REPAIR = "repeat the call of scripts/cache_latents.py that made it, which makes it anew"
PLAIN, MIRRORED = "plain", "mirrored"
_SUMS = "crc32"
"""The columns of checksums, of each side."""
_BYTES = "surrogateescape"
"""Texts may be names of files, which need not be UTF-8."""
_NUMBERS: dict[type, torch.dtype] = {bool: torch.bool, int: torch.int64, float: torch.float64}
_CASTS: dict[str, Callable[[Tensor], Any]] = {kind.__name__: kind for kind in _NUMBERS}
KINDS = ("tensor", "text", *_CASTS)
_NARROW = (torch.uint8, torch.int16, torch.int32)


def describe(item: Item) -> Schema:
    """The schema of items like this one.

    Raises:
        DataError: an entry is of a kind that cannot be kept; it names the entry.
    """
    return {name: _column(name, value) for name, value in item.items()}


def odd_entry(one: Schema, other: Schema) -> str | None:
    """The first entry that two schemas have in different ways; None: they are the same."""
    return min((k for k in one.keys() | other.keys() if one.get(k) != other.get(k)), default=None)


def _column(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, (Tensor, np.ndarray)):
        tensor = torch.as_tensor(value)
        kind = str(tensor.dtype).removeprefix("torch.")
        return {"kind": "tensor", "dtype": kind, "shape": list(tensor.shape)}
    if isinstance(value, str):
        return {"kind": "text"}
    if type(value) in _NUMBERS:
        return {"kind": type(value).__name__}
    raise DataError(
        f"entry {name!r} is a {type(value).__name__}: a cache holds tensors, numbers and texts; "
        "leave it out with --without"
    )


def pack(plain: Sequence[Item], mirrored: Sequence[Item], schema: Schema) -> dict[str, Tensor]:
    """Items as the tensors of a file; what is the same in mirrored items is kept once.

    Args:
        plain: the items.
        mirrored: the same mirrored, or none.
        schema: what all of them hold.

    Raises:
        DataError: one of them holds something else.
    """
    columns = _pack(PLAIN, plain, schema)
    columns |= _sums(PLAIN, columns, schema, len(plain))
    if mirrored:
        others = _pack(MIRRORED, mirrored, schema)
        others |= _sums(MIRRORED, others, schema, len(mirrored))
        for name, column in schema.items():
            keys = list(zip(_keys(PLAIN, name, column), _keys(MIRRORED, name, column), strict=True))
            if all(torch.equal(columns[one], others[other]) for one, other in keys):
                for _, other in keys:
                    del others[other]
        columns |= others
    return columns


def _pack(side: str, items: Sequence[Item], schema: Schema) -> dict[str, Tensor]:
    for item in items:
        found = describe(item)
        if (odd := odd_entry(found, schema)) is not None:
            raise DataError(
                f"entry {odd!r} is {found.get(odd) or 'absent'} in one item and "
                f"{schema.get(odd) or 'absent'} in another: all must be alike"
            )
    columns: dict[str, Tensor] = {}
    for name, column in schema.items():
        values = [item[name] for item in items]
        key, *ends = _keys(side, name, column)
        if column["kind"] == "text":
            texts = [value.encode("utf-8", _BYTES) for value in values]
            columns[key] = torch.from_numpy(np.frombuffer(b"".join(texts), np.uint8).copy())
            columns[ends[0]] = torch.tensor([len(text) for text in texts]).cumsum(0)
        elif column["kind"] == "tensor":
            columns[key] = _narrowed(torch.stack([torch.as_tensor(value) for value in values]))
        else:
            columns[key] = _narrowed(torch.tensor(values, dtype=_NUMBERS[type(values[0])]))
    return columns


def _keys(side: str, name: str, column: Mapping[str, Any]) -> list[str]:
    """Names of the tensors of a column; of texts there are their bytes, and where each ends."""
    key = f"{side}.{name}"
    return [f"{key}.text", f"{key}.ends"] if column["kind"] == "text" else [key]


def _sums(side: str, columns: Mapping[str, Tensor], schema: Schema, rows: int) -> dict[str, Tensor]:
    """The column of checksums of packed items."""
    parts = {
        name: _bytes_of([columns[key] for key in _keys(side, name, about)])
        for name, about in schema.items()
    }
    sums = [_sum(parts, row) for row in range(rows)]
    return {f"{_SUMS}.{side}": torch.tensor(sums, dtype=torch.int64)}


def _bytes_of(column: Sequence[Tensor]) -> list[np.ndarray]:
    """A column as bytes: (rows, bytes of a value); of texts their bytes, and where each ends."""
    if len(column) == 2:
        return [part.numpy() for part in column]
    values = column[0]
    if not values.numel():
        return [np.zeros((len(values), 0), np.uint8)]
    return [values.reshape(len(values), -1).view(torch.uint8).numpy()]


def _sum(side: Mapping[str, Sequence[np.ndarray]], row: int) -> int:
    """CRC-32 of an item, over what is kept of it in the order of the names."""
    crc = 0
    for name in sorted(side):
        values, *ends = side[name]
        if ends:
            stored = values[int(ends[0][row - 1]) if row else 0 : int(ends[0][row])]
        else:
            stored = values[row]
        crc = zlib.crc32(stored, crc)  # type: ignore[arg-type]
    return crc


def _narrowed(values: Tensor) -> Tensor:
    """Whole numbers in the smallest type that holds all of them."""
    if values.dtype != torch.int64 or not values.numel():
        return values
    low, high = (int(edge) for edge in values.aminmax())
    for dtype in _NARROW:
        if torch.iinfo(dtype).min <= low and high <= torch.iinfo(dtype).max:
            return values.to(dtype)
    return values


@dataclass(frozen=True)
class Written:
    """What is known of a written file."""

    sha256: str
    bytes: int


def write_shard(path: Path, columns: dict[str, Tensor]) -> Written:
    """Write a file, complete or not at all; the same columns always make the same bytes."""
    parts = serialised(columns)
    write_atomically(path, lambda file: file.writelines(parts))
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return Written(digest.hexdigest(), sum(len(part) for part in parts))


class Shard:
    """The items of a file, memory-mapped: only the rows that are asked for are read.

    Args:
        path: the file.
        schema: what its items hold.
        rows: how many they are.

    Raises:
        DataError: it is missing, damaged, or holds something else; it names the file.
    """

    def __init__(self, path: Path, schema: Schema, rows: int) -> None:
        self._path, self._schema = path, schema
        try:
            found = read_tensors(path, values=False).tensors
        except (OSError, DamagedFileError) as error:
            why = reason(error.__cause__ or error)
            raise DataError(f"shard '{shown(path)}' cannot be read ({why}): {REPAIR}") from None
        self._sides = {
            side: {name: _found(found, side, name, column) for name, column in schema.items()}
            for side in (PLAIN, MIRRORED)
        }
        self._sums = {side: found.get(f"{_SUMS}.{side}") for side in (PLAIN, MIRRORED)}
        for columns in self._sides.values():
            for name, column in columns.items():
                if not column or len(column[-1]) != rows:
                    raise DataError(
                        f"shard '{shown(path)}' does not hold {name!r} of {rows} items: {REPAIR}"
                    )
        self._bytes = {
            side: {name: _bytes_of(column) for name, column in columns.items()}
            for side, columns in self._sides.items()
            if self._sums[side] is not None
        }

    def item(self, row: int, mirrored: bool) -> Item:
        """An item, in memory of its own.

        Raises:
            DataError: it is not what was written.
        """
        side = MIRRORED if mirrored else PLAIN
        columns, sums = self._sides[side], self._sums[side]
        if sums is not None and int(sums[row]) != _sum(self._bytes[side], row):
            raise DataError(
                f"shard '{shown(self._path)}' is damaged, item {row} of it is not what was "
                f"written: {REPAIR}"
            )
        return {name: _value(columns[name], about, row) for name, about in self._schema.items()}


def _found(
    tensors: Mapping[str, Tensor], side: str, name: str, column: Mapping[str, Any]
) -> list[Tensor]:
    """The tensors of a column, the plain ones where mirrored ones are the same; or none."""
    for keys in (_keys(side, name, column), _keys(PLAIN, name, column)):
        if all(key in tensors for key in keys):
            return [tensors[key] for key in keys]
    return []


def _value(column: Sequence[Tensor], about: Mapping[str, Any], row: int) -> Any:
    if about["kind"] == "text":
        text, ends = column
        start = int(ends[row - 1]) if row else 0
        return text[start : int(ends[row])].numpy().tobytes().decode("utf-8", _BYTES)
    value = column[0][row]
    if about["kind"] == "tensor":
        return value.to(getattr(torch, about["dtype"]), copy=True)
    return _CASTS[about["kind"]](value)
