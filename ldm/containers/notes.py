"""A checksum in tables of JSON, of what is remembered of files for the next time."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

_CHECKSUM = "crc32"


def with_checksum(table: Mapping[str, Any]) -> dict[str, Any]:
    """Values of JSON by name, and their checksum."""
    return {**table, _CHECKSUM: _crc(table)}


def without_checksum(table: Mapping[str, Any]) -> dict[str, Any]:
    """The values alone; earlier releases wrote no checksum.

    Raises:
        ValueError: they are not those that the checksum was made of.
    """
    values = {name: value for name, value in table.items() if name != _CHECKSUM}
    if table.get(_CHECKSUM, _crc(values)) != _crc(values):
        raise ValueError("it is not what was written")
    return values


def _crc(values: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(values, sort_keys=True).encode()):08x}"
