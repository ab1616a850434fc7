"""Random access to the files in a tar archive, without unpacking it."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ldm.errors import DataError


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
        return f"{self.archive}:{self.name}"

    def read(self) -> bytes:
        """Its content.

        Raises:
            DataError: the archive is gone or cut short.
        """
        try:
            with self.archive.open("rb") as file:
                file.seek(self.start)
                data = file.read(self.length)
        except OSError as error:
            raise DataError(f"cannot read '{self}' ({error})") from error
        if len(data) < self.length:
            raise DataError(f"'{self}' is cut short: get the archive again")
        return data


def list_members(archive: Path, extensions: Sequence[str]) -> list[Member]:
    """Regular files of an uncompressed tar archive, sorted by name.

    Args:
        archive: its path.
        extensions: endings, in small letters, of the names that count.

    Raises:
        DataError: it is missing, compressed or no tar archive.
    """
    found = (member for member in stored_members(archive) if _counts(member.name, extensions))
    return sorted(found, key=lambda member: member.name)


def stored_members(archive: Path) -> Iterator[Member]:
    """Regular files of an uncompressed tar archive, in the order in which they are stored.

    Raises:
        DataError: it is missing, compressed or no tar archive, or ends early.
    """
    try:
        with tarfile.open(archive, "r:") as tar:
            for info in tar:
                if info.isreg():
                    name = info.name.removeprefix("./")
                    yield Member(archive, name, info.offset_data, info.size)
    except (OSError, EOFError, tarfile.TarError) as error:
        raise DataError(
            f"cannot read archive '{archive}' ({error}): it must be a complete, uncompressed .tar"
        ) from error


def _counts(name: str, extensions: Sequence[str]) -> bool:
    return name.lower().endswith(tuple(extensions)) and not PurePosixPath(name).name.startswith(".")
