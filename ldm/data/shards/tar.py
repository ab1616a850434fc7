"""Tar archives, read without unpacking: their members in order, or one of them by its place.

Archives come from others, and nothing in them is believed: names are names only, a link is no
file, sizes are compared with a limit before memory is taken, and whatever goes wrong in a header
is one kind of error.
"""

from __future__ import annotations

import bz2
import gzip
import io
import logging
import lzma
import os
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from ldm.errors import DataError
from ldm.files import open_regular, reason, shown

MOST_MEMBER = 1 << 28
"""Bytes that a member may have, if nothing else is said."""
_MOST_HEADER = 1 << 20
"""Bytes that all headers of a member may have: long names, extended attributes."""
_MOST_UNPACKER = 1 << 27
"""Bytes of memory that unpacking xz may take."""
_AFTER_END = 1 << 16
"""Bytes behind the end mark that are looked at."""
_CHUNK = 1 << 16
_DIGITS = re.compile(rb"\d{300}")

_log = logging.getLogger(__name__)


class DamagedError(Exception):
    """An archive that cannot be read, or not further."""


@dataclass(frozen=True)
class Entry:
    """A member of an archive, as its header has it.

    Attributes:
        name: a path, which may be anything.
        start: where its content begins, in bytes.
        size: of its content, in bytes.
        refused: why the content is not read; "": it can be.
    """

    name: str
    start: int
    size: int
    refused: str = ""


@dataclass(frozen=True)
class Unread:
    """What stands in place of the content of a file that is not read, and why it is not."""

    why: str


class TarReader:
    """The members of an archive in order; folders are not members.

    Args:
        file: where it begins; a file, or a stream that is read forwards. It may be compressed by
            gzip, bzip2 or xz.
        most: bytes that a member may have.
    """

    def __init__(self, file: BinaryIO, most: int = MOST_MEMBER) -> None:
        self._file, self._most = file, most
        self._bytes: _Forward | None = None

    def __iter__(self) -> Iterator[Entry]:
        """Headers of the members.

        Raises:
            DamagedError: it is no archive, or cannot be read further.
        """
        tar = self._guarded(self._open)
        while (info := self._guarded(lambda: self._next(tar))) is not None:
            if not info.isdir():
                yield Entry(info.name, info.offset_data, info.size, self._refused(info))
        self._guarded(self._check_end)

    def read(self, entry: Entry) -> bytes:
        """The content of the member that was given last.

        Raises:
            DamagedError: the archive ends within it.
        """
        assert self._bytes is not None
        forward = self._bytes

        def content() -> bytes:
            forward.seek(entry.start)
            return forward.exactly(entry.size)

        return self._guarded(content)

    def _open(self) -> tarfile.TarFile:
        self._bytes = _Forward(self._file, self._most)
        return tarfile.open(fileobj=self._bytes, mode="r:")  # type: ignore[call-overload]

    def _next(self, tar: tarfile.TarFile) -> tarfile.TarInfo | None:
        assert self._bytes is not None
        self._bytes.left = _MOST_HEADER
        info = tar.next()
        tar.members.clear()  # type: ignore[attr-defined]  # it would remember all of them
        if info is not None and info.size < 0:
            raise DamagedError(f"'{shown(info.name)}' has a negative size")
        return info

    def _refused(self, info: tarfile.TarInfo) -> str:
        if not info.isreg():
            return "is a link" if info.islnk() or info.issym() else "is no file"
        if info.issparse():
            return "is a sparse file: write the archive without tar's option --sparse"
        if info.size > self._most:
            return f"has {info.size} bytes, more than the {self._most} that are read"
        return ""

    def _check_end(self) -> None:
        """Refuse an end that is none: ``tarfile`` takes a damaged header for one."""
        assert self._bytes is not None
        if self._bytes.latest.strip(b"\0") or len(self._bytes.latest) not in (0, 512):
            raise DamagedError("a header is damaged")
        self._bytes.left = _AFTER_END
        if self._bytes.read(_AFTER_END).strip(b"\0"):
            raise DamagedError("more follows behind its end mark, which is not read")

    def _guarded(self, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except DamagedError:
            raise
        except Exception as error:  # of tarfile and the unpackers: anything
            raise DamagedError(reason(error)) from error


class _Forward:
    """What ``tarfile`` takes for an uncompressed file: it reads headers by ``read``.

    Attributes:
        left: bytes of headers that may still be read.
        latest: the header that was read last.
    """

    def __init__(self, file: BinaryIO, most: int) -> None:
        magic = file.peek(8)[:8]  # type: ignore[attr-defined]
        unpack = next((f for begin, f in _PACKED.items() if magic.startswith(begin)), None)
        self._file: Any = file if unpack is None else unpack(file)
        self._packed, self._most = unpack is not None, most
        self._seekable = unpack is None and file.seekable()
        self._place = 0
        self.left, self.latest = _MOST_HEADER, b""

    def tell(self) -> int:
        return self._place

    def read(self, size: int) -> bytes:
        if not 0 <= size <= self.left:
            raise DamagedError(f"headers of more than {_MOST_HEADER} bytes")
        self.left -= size
        self.latest = self._read(size)
        if _DIGITS.search(self.latest):  # tarfile would take time by the square of it
            raise DamagedError("a header with a number of more than 300 digits")
        return self.latest

    def exactly(self, size: int) -> bytes:
        data = self._read(size)
        if len(data) < size:
            raise DamagedError("unexpected end of data")
        return data

    def seek(self, place: int) -> None:
        """Go forwards; an end before ``place`` is noticed by the next ``read``."""
        if place < self._place:
            raise DamagedError("a header leads backwards")
        if self._packed and place - self._place > self._most:
            raise DamagedError(
                f"a member has more than the {self._most} bytes that are read, and the archive is "
                "compressed: it cannot be passed over"
            )
        if self._seekable:
            self._file.seek(place)
            self._place = place
        while self._place < place and self._read(min(_CHUNK, place - self._place)):
            pass

    def _read(self, size: int) -> bytes:
        data: bytes = self._file.read(size)
        self._place += len(data)
        return data


class _Unpacked(io.RawIOBase):
    """The content of a bzip2 or xz file, made as it is asked for."""

    def __init__(self, file: BinaryIO, make: Callable[[], Any]) -> None:
        self._file, self._make, self._engine = file, make, make()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            given = b""
            if self._engine.eof:  # perhaps another stream follows
                given = self._engine.unused_data.lstrip(b"\0") or self._file.read(_CHUNK)
                if not given:
                    return 0
                self._engine = self._make()
            elif self._engine.needs_input:
                given = self._file.read(_CHUNK)
                if not given:
                    raise EOFError("the compressed data end early")
            made = self._engine.decompress(given, len(buffer))
            if made:
                buffer[: len(made)] = made
                return len(made)


def _xz() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(memlimit=_MOST_UNPACKER)


_PACKED: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": lambda file: io.BufferedReader(_Unpacked(file, bz2.BZ2Decompressor), _CHUNK),
    b"\xfd7zXZ\0": lambda file: io.BufferedReader(_Unpacked(file, _xz), _CHUNK),
}
"""What makes the archive of a compressed file, by how the file begins."""


# -- by place ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Member:
    """A file in an archive.

    Attributes:
        archive: path of the archive.
        name: of the file in it.
        start: where its content begins, in bytes.
        length: of its content, in bytes.
    """

    archive: Path
    name: str
    start: int
    length: int

    def __str__(self) -> str:
        return f"{shown(self.archive)}:{shown(self.name)}"

    def read(self) -> bytes:
        """Its content.

        Raises:
            DataError: the archive is gone or cut short.
        """
        try:
            with open_regular(self.archive) as file:
                rest = os.fstat(file.fileno()).st_size - self.start
                file.seek(self.start)
                data = file.read(min(self.length, max(rest, 0)))
        except OSError as error:
            raise DataError(f"cannot read '{self}' ({reason(error)})") from error
        if len(data) < self.length:
            raise DataError(f"'{self}' is cut short: get the archive again")
        return data


def list_members(archive: Path, extensions: Sequence[str]) -> list[Member]:
    """Regular files of an uncompressed tar archive, sorted by name.

    What else has such a name, as a link or a file of ``MOST_MEMBER`` bytes, is counted in the log.

    Args:
        archive: its path.
        extensions: endings, in small letters, of the names that count.

    Raises:
        DataError: it is missing, compressed or no tar archive.
    """
    found, refused = list[Member](), Counter[str]()
    for entry in stored_entries(archive):
        if _counts(entry.name, extensions):
            if entry.refused:
                refused[entry.refused] += 1
            else:
                name = entry.name.removeprefix("./")
                found.append(Member(archive, name, entry.start, entry.size))
    for why, count in refused.items():
        _log.warning("'%s': %d files are left out; one %s", shown(archive), count, why)
    return sorted(found, key=lambda member: member.name)


def stored_entries(archive: Path, most: int = MOST_MEMBER) -> Iterator[Entry]:
    """Members of an uncompressed tar archive, in the order in which they are stored.

    Args:
        archive: its path.
        most: bytes that a member may have.

    Raises:
        DataError: it is missing, compressed or no tar archive, or ends early.
    """
    try:
        with open_regular(archive) as file:
            begin = file.peek(8)  # type: ignore[attr-defined]
            if begin.startswith(tuple(_PACKED)):
                raise DamagedError("it is compressed")
            yield from TarReader(file, most)
    except (OSError, DamagedError) as error:
        raise DataError(
            f"cannot read archive '{shown(archive)}' ({reason(error)}): it must be a complete, "
            "uncompressed .tar"
        ) from error


def _counts(name: str, extensions: Sequence[str]) -> bool:
    return name.lower().endswith(tuple(extensions)) and not PurePosixPath(name).name.startswith(".")
