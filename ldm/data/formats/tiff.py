"""TIFF files: the first image, by a directory that names only what its pixels need."""

from __future__ import annotations

import struct
from typing import BinaryIO

from ldm.data.formats.directory import Directory, read_directory
from ldm.data.formats.encoded import Encoded

MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _ORIENTATION, _FORMAT = 256, 257, 258, 262, 274, 339
_TILE = (322, 323)
_SIGNED = 2
_SPANS = ((280, 281), (340, 341))
"""Tags of the least and greatest value: of integers, and of any samples."""
_NEEDED = {
    *(_WIDTH, _HEIGHT, _BITS, 259, _PHOTOMETRIC, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320),
    *(*_TILE, 324, 325, 332, 338, _FORMAT, 347),
    *(512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532, 50674),
}
"""Sizes, layout, compression, colours. Tags such as those of resolution are not among them."""
_PROFILE = 34675
_XMP = 700
_MOST_PROFILE = 1 << 23


def take_apart(file: BinaryIO, whole: bool) -> Encoded:
    """A TIFF file that ends in a new directory; its header names that one.

    Args:
        file: at its begin.
        whole: False: only the directory is read.
    """
    directory = read_directory(file)
    if directory is None:
        file.seek(0)
        return Encoded(file.read() if whole else b"")
    width, height = directory.integer(_WIDTH), directory.integer(_HEIGHT)
    size = None if width is None or height is None else (width, height)
    bits = max(directory.integers(_BITS), default=1)
    data = b""
    if whole:
        file.seek(0)
        data = _with_directory(file.read(), directory)
    return Encoded(
        data,
        size,
        exif=_only(directory, _ORIENTATION),
        xmp=_bytes(file, directory, _XMP),
        profile=_bytes(file, directory, _PROFILE),
        bits=bits,
        signed=_SIGNED in directory.integers(_FORMAT),
        inverted=directory.integer(_PHOTOMETRIC) == 0,
        tile=(directory.integer(_TILE[0]) or 0, directory.integer(_TILE[1]) or 0),
        span=_span(directory, bits),
    )


def _span(directory: Directory, bits: int) -> tuple[float, float] | None:
    """Values of black and white, if tags or a number of bits between 8 and 16 state them."""
    for least, greatest in _SPANS:
        highs = directory.values.get(greatest)
        low, high = min(directory.values.get(least) or (0,)), max(highs or (0,))
        if highs and low < high < float("inf"):
            return float(low), float(high)
    return (0.0, 2.0**bits - 1) if 8 < bits < 16 else None


def _with_directory(data: bytes, directory: Directory) -> bytes:
    tags = sorted(_NEEDED & directory.entries.keys())
    number, offset = ("Q", "Q") if directory.big else ("H", "I")
    start = len(data) + len(data) % 2
    table = b"".join(directory.entries[tag] for tag in tags)
    count = struct.pack(f"{directory.order}{number}", len(tags))
    end = struct.pack(f"{directory.order}{offset}", 0)
    place = 8 if directory.big else 4
    pointer = struct.pack(f"{directory.order}{offset}", start)
    head = data[:place] + pointer
    return b"".join(
        [head, memoryview(data)[len(head) :], b"\0" * (start - len(data)), count, table, end]
    )


def _only(directory: Directory, tag: int) -> bytes:
    """The directory with a single tag, as EXIF data; empty if it is absent."""
    if tag not in directory.entries:
        return b""
    value = directory.integer(tag)
    return struct.pack("<2sHIHHHII", b"II", 42, 8, 1, tag, 4, 1, value or 0)


def _bytes(file: BinaryIO, directory: Directory, tag: int) -> bytes:
    """Content of a tag that is a string of bytes; empty if it is absent or something else."""
    entry = directory.entries.get(tag, b"")
    offset = "Q" if directory.big else "I"
    try:
        kind, count, place = struct.unpack_from(f"{directory.order}H{offset}{offset}", entry, 2)
        if kind not in (1, 2, 7) or count > _MOST_PROFILE:
            return b""
        file.seek(place)
        return file.read(count)
    except (struct.error, OSError, ValueError, OverflowError):
        return b""
