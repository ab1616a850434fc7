"""One file of a latent cache: items as columns of a .safetensors file, read lazily."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldm.errors import DataError
from ldm.files import write_atomically

Item = dict[str, Any]
Schema = dict[str, dict[str, Any]]
"""What the items hold: name -> kind (tensor, int, float, bool, text), and type and shape."""

REPAIR = "repeat the call of scripts/cache_latents.py that made it, which makes it anew"
PLAIN, MIRRORED = "plain", "mirrored"
_NUMBERS: dict[type, torch.dtype] = {bool: torch.bool, int: torch.int64, float: torch.float64}
_CASTS: dict[str, Callable[[Tensor], Any]] = {kind.__name__: kind for kind in _NUMBERS}
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
    if mirrored:
        others = _pack(MIRRORED, mirrored, schema)
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
            texts = [value.encode() for value in values]
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
    from safetensors.torch import save

    content = save({name: value.contiguous() for name, value in columns.items()})
    write_atomically(path, lambda file: file.write(content))
    return Written(hashlib.sha256(content).hexdigest(), len(content))


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
        from safetensors import SafetensorError, safe_open

        self._schema = schema
        try:
            with safe_open(path, framework="pt") as file:
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise DataError(f"shard '{path}' cannot be read ({error}): {REPAIR}") from None
        self._sides = {
            side: {name: _found(found, side, name, column) for name, column in schema.items()}
            for side in (PLAIN, MIRRORED)
        }
        for name, column in self._sides[PLAIN].items():
            if not column or len(column[-1]) != rows:
                raise DataError(f"shard '{path}' does not hold {name!r} of {rows} items: {REPAIR}")

    def item(self, row: int, mirrored: bool) -> Item:
        """An item, in memory of its own."""
        side = self._sides[MIRRORED if mirrored else PLAIN]
        return {name: _value(side[name], column, row) for name, column in self._schema.items()}


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
        return text[start : int(ends[row])].numpy().tobytes().decode()
    value = column[0][row]
    if about["kind"] == "tensor":
        return value.to(getattr(torch, about["dtype"]), copy=True)
    return _CASTS[about["kind"]](value)
