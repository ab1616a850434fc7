"""Arrays in npz files of others: what a header claims is compared with the file before it is used.

Nothing is allocated for sizes that the file does not hold, and no Python object is ever built.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from ldm.containers.zips import members_of
from ldm.errors import DamagedFileError, UserError
from ldm.files import open_regular, reason, shown

MOST_BYTES = 1 << 32
"""Bytes of an array that is read whole."""
_MOST_HEADER = 1 << 16
_DEFLATE = 1040
"""Deflate makes data at most so many times smaller."""
_SUSPICIOUS, _RATIO = 1 << 26, 100
"""An array read whole that expands beyond both, in bytes and in multiples of what is stored."""


class Array(NamedTuple):
    """An array in a file that is open.

    Attributes:
        shape: of the array.
        fortran: whether its values lie in the order of Fortran.
        dtype: of the values.
        stream: it stands at the first value; at the end of the last one the checksum is compared.
        stored: bytes that it takes in the file.
    """

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    stream: IO[bytes]
    stored: int

    @property
    def size(self) -> int:
        """Bytes of all values."""
        return math.prod(self.shape) * self.dtype.itemsize


def names_of(path: Path) -> list[str]:
    """Names of the arrays in a file.

    Raises:
        DamagedFileError: it is no npz file.
        OSError: it is absent, cannot be read, or is no regular file.
    """
    with _archive(path) as archive:
        try:
            for member in archive.infolist():
                archive.open(member).close()  # compares the two places that name it
        except Exception as error:  # a damaged file can raise anything at all
            raise DamagedFileError(f"{shown(path)}: {reason(error)}") from error
        return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


@contextlib.contextmanager
def opened_array(path: Path, name: str) -> Iterator[Array]:
    """One array of a file, to be read in parts.

    Raises:
        DamagedFileError: it is absent, no array, or not of the size that it claims.
        OSError: see ``names_of``.
    """
    with _archive(path) as archive:
        try:
            yield _array(archive, f"{name}.npy")
        except (OSError, UserError):
            raise
        except Exception as error:  # a damaged file can raise anything at all
            raise DamagedFileError(f"{shown(path)}: {name}: {reason(error)}") from error


def read_whole(array: Array, most: int = MOST_BYTES) -> np.ndarray:
    """The values of an array, in the order of C.

    Raises:
        ValueError: it holds Python objects, is larger than ``most`` bytes or a bomb, or damaged.
    """
    if array.dtype.hasobject:
        raise ValueError("it holds Python objects, which may run code")
    if array.size > most:
        raise ValueError(f"it takes {array.size} bytes, more than the {most} that are read")
    if array.size > max(_SUSPICIOUS, _RATIO * array.stored):
        raise ValueError(f"it expands from {array.stored} to {array.size} bytes")
    values = np.empty(array.size, np.uint8)
    rest = memoryview(values)  # type: ignore[arg-type]
    while rest:
        data = array.stream.read(min(len(rest), 1 << 20))
        if not data:
            raise ValueError("it is cut short")
        rest[: len(data)], rest = data, rest[len(data) :]
    typed = values.view(array.dtype)
    return typed.reshape(array.shape[::-1]).T if array.fortran else typed.reshape(array.shape)


@contextlib.contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            archive = zipfile.ZipFile(file)
            members_of(archive, size)
        except OSError:
            raise
        except Exception as error:  # a damaged file can raise anything at all
            raise DamagedFileError(f"{shown(path)}: {reason(error)}") from error
        with archive:
            yield archive


def _array(archive: zipfile.ZipFile, name: str) -> Array:
    member = archive.getinfo(name)
    stored = member.compress_type == zipfile.ZIP_STORED
    if member.file_size > member.compress_size * (1 if stored else _DEFLATE) + _MOST_HEADER:
        raise ValueError(f"{member.compress_size} bytes cannot hold {member.file_size}")
    stream = archive.open(member)
    version = np.lib.format.read_magic(stream)
    width, read = {
        (1, 0): (2, np.lib.format.read_array_header_1_0),
        (2, 0): (4, np.lib.format.read_array_header_2_0),
    }[version]
    prefix = stream.read(width)
    length = int.from_bytes(prefix, "little")
    if length > _MOST_HEADER:
        raise ValueError(f"its header has {length} bytes")
    shape, fortran, dtype = read(io.BytesIO(prefix + stream.read(length)))
    if any(type(side) is not int or side < 0 for side in shape):
        raise ValueError(f"its shape is {shape}")
    array = Array(shape, fortran, dtype, stream, member.compress_size)
    held = member.file_size - stream.tell()
    if not dtype.hasobject and (array.size != held or not dtype.itemsize):
        raise ValueError(f"it claims {array.size} bytes of {dtype} and holds {held}")
    return array
