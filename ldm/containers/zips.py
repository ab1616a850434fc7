"""The checksums of zip files, which checkpoints of torch and npz files are: CRC-32 of each member.

Neither torch nor a partial read of ``zipfile`` looks at them.
"""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO

from ldm.errors import DamagedFileError
from ldm.files import open_regular, reason, shown

_BEGINNING = b"PK\x03\x04"
"""First bytes of a zip file with anything in it."""
_ENTRY = b"PK\x01\x02"
"""First bytes of an entry of the index: a wrong length makes it a part of the one before."""
_BLOCK = 1 << 20
_LOCAL_HEADER = struct.Struct("<4s22xHH")
"""Signature, and lengths of name and extra field, at the end of 30 bytes."""
_ENCRYPTED = 1
_EXPANDED, _RATIO = 1 << 24, 100
"""A compressed member beyond both, in bytes and in multiples of what is stored, is refused."""


def check_if_zip(path: Path) -> None:
    """``check_zip`` of a file that begins like one; others, such as old pickles, have no checksums.

    Raises:
        DamagedFileError: see ``check_zip``.
        OSError: it is absent, cannot be read, or is no regular file.
    """
    with open_regular(path) as file:
        is_zip = file.read(len(_BEGINNING)) == _BEGINNING
    if is_zip:
        check_zip(path)


def check_zip(path: Path, names: Collection[str] | None = None) -> None:
    """Compare members of a zip file with their checksums; it takes a second for several GB.

    Args:
        path: the file.
        names: of the members; None: all of them.

    Raises:
        DamagedFileError: cut short, not readable, or a byte is not what was written.
        OSError: it is absent, cannot be read, or is no regular file.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            with zipfile.ZipFile(file) as archive:
                for member in members_of(archive, size):
                    if names is None or member.filename in names:
                        _check(archive, member, file)
        except OSError:
            raise
        except Exception as error:  # a damaged file can raise anything at all
            raise DamagedFileError(f"{shown(path)} is damaged: {reason(error)}") from error


def members_of(archive: zipfile.ZipFile, size: int) -> list[zipfile.ZipInfo]:
    """What is in an archive, all of it.

    Args:
        archive: opened.
        size: bytes of the file.

    Raises:
        BadZipFile: its index is damaged: members overlap, or one entry hides the next.
    """
    members = archive.infolist()
    if sum(member.compress_size for member in members) > size:
        raise zipfile.BadZipFile("its members overlap")
    if any(_ENTRY in member.extra + member.comment for member in members):
        raise zipfile.BadZipFile("its index is not what was written")
    return members


def _check(archive: zipfile.ZipFile, member: zipfile.ZipInfo, file: BinaryIO) -> None:
    stored = member.compress_type == zipfile.ZIP_STORED
    if not stored and member.file_size > max(_EXPANDED, _RATIO * member.compress_size):
        raise zipfile.BadZipFile(f"{member.filename!r} in it expands to {member.file_size} bytes")
    with archive.open(member) as stream:  # compares the two places that name it
        if not stored:
            while stream.read(_BLOCK):
                pass
            return
    found = _crc_of_stored(member, file)
    if found != member.CRC:
        raise zipfile.BadZipFile(f"{member.filename!r} in it is not what was written")


def _crc_of_stored(member: zipfile.ZipInfo, file: BinaryIO) -> int | None:
    """Checksum of the bytes of a member; None if they are not all there."""
    if member.flag_bits & _ENCRYPTED or member.file_size != member.compress_size:
        return None
    file.seek(member.header_offset)
    _, name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    file.seek(name + extra, os.SEEK_CUR)
    return crc_of(file, member.file_size)


def crc_of(file: BinaryIO, size: int, crc: int = 0) -> int | None:
    """CRC-32 of the next bytes of a file, after what has the checksum ``crc``; None: it ends."""
    block = memoryview(bytearray(min(_BLOCK, max(size, 1))))
    while size > 0:
        count = file.readinto(block[: min(size, len(block))])  # type: ignore[attr-defined]
        if not count:
            return None
        crc = zlib.crc32(block[:count], crc)
        size -= count
    return crc
