"""Directories of TIFF, in which EXIF lies too: read whatever their types and values are."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

MOST_ENTRIES = 4096
MOST_VALUES = 16
"""Of one entry; more are not needed of what is read here."""
_CODES = {
    1: "B",
    3: "H",
    4: "I",
    6: "b",
    8: "h",
    9: "i",
    11: "f",
    12: "d",
    13: "I",
    16: "Q",
    17: "q",
    18: "Q",
}
"""Codes of ``struct`` by the types of TIFF that are numbers, without fractions of integers."""


@dataclass(frozen=True)
class Directory:
    """The first directory of a file.

    Attributes:
        order: ``<`` or ``>``, as ``struct`` takes it.
        big: of BigTIFF, with numbers of 8 bytes.
        entries: by tag, as they are stored: tag, type, count, value or offset.
        values: by tag, the numbers; absent where they are of no known type or not there.
    """

    order: str
    big: bool
    entries: dict[int, bytes]
    values: dict[int, tuple[float, ...]]

    def integers(self, tag: int) -> tuple[int, ...]:
        """The integers of a tag; none if it is absent or something else."""
        return tuple(value for value in self.values.get(tag, ()) if isinstance(value, int))

    def integer(self, tag: int) -> int | None:
        """The single integer of a tag; None: it is absent or something else."""
        values = self.integers(tag)
        return values[0] if len(values) == 1 else None


def read_directory(file: BinaryIO) -> Directory | None:
    """The first directory of a TIFF file or of EXIF data; None: there is none."""
    try:
        return _read(file)
    except (struct.error, OSError, ValueError, OverflowError):
        return None


def _read(file: BinaryIO) -> Directory | None:
    head = file.read(8)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None:
        return None
    (version,) = struct.unpack(f"{order}H", head[2:4])
    if version not in (42, 43):
        return None
    big = version == 43
    code = "Q" if big else "I"
    start = file.read(8) if big else head[4:]
    file.seek(struct.unpack(f"{order}{code}", start)[0])
    length = 20 if big else 12
    raw = file.read(8 if big else 2)
    (count,) = struct.unpack(f"{order}{'Q' if big else 'H'}", raw)
    table = file.read(min(count, MOST_ENTRIES) * length)
    entries = {}
    for at in range(0, len(table) - length + 1, length):
        entry = table[at : at + length]
        entries[struct.unpack_from(f"{order}H", entry)[0]] = entry
    directory = Directory(order, big, entries, {})
    for tag, entry in entries.items():
        directory.values[tag] = _numbers(file, directory, entry)
    return directory


def _numbers(file: BinaryIO, directory: Directory, entry: bytes) -> tuple[float, ...]:
    offset = "Q" if directory.big else "I"
    kind, count = struct.unpack_from(f"{directory.order}H{offset}", entry, 2)
    code = _CODES.get(kind)
    if code is None or not 0 < count <= MOST_VALUES:
        return ()
    field = entry[12:] if directory.big else entry[8:]
    length = struct.calcsize(f"<{count}{code}")
    if length > len(field):
        file.seek(struct.unpack(f"{directory.order}{offset}", field)[0])
        field = file.read(length)
    if len(field) < length:
        return ()
    return struct.unpack(f"{directory.order}{count}{code}", field[:length])
