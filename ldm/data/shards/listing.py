"""Which shards there are: paths, which are opened as files, and addresses, which webdataset opens.

An address is what the user has written as one. Whatever was found on the disk is a file, also
``pipe:rm x.tar``, which webdataset would run: a path that reads like an address is given with
``./`` before it.
"""

from __future__ import annotations

import io
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit
from urllib.request import url2pathname

from ldm.errors import DataError
from ldm.files import open_regular, reason, shown

_ADDRESS = re.compile(r"pipe:|[a-z][a-z0-9+.-]*://")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(-?\d{1,18})\.\.(-?\d{1,18})(?:\.\.-?\d+)?$")
_MAGIC = re.compile(r"[*?[]")
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_MOST = 1_000_000
"""Shards that a pattern with braces may give."""

_log = logging.getLogger(__name__)


def list_shards(shards: str | Path | Sequence[str]) -> list[str]:
    """Paths and addresses of shards, sorted.

    What exists is taken as it stands, the beginning of a path too: in ``a[1]/{0..3}.tar`` brackets
    are part of a name if there is such a folder.

    Args:
        shards: a folder with .tar files, a pattern with ``*`` (``**``: any folders below) or with
            braces (``data/{00000..00123}.tar``), an address that webdataset opens (https://,
            pipe:), or a list of these. A ``Path`` is never an address.

    Raises:
        DataError: there are none.
    """
    if not isinstance(shards, (str, Path)):
        return [shard for part in shards for shard in list_shards(part)]
    text = str(shards)
    if isinstance(shards, str) and _existing(Path(text))[0] in (Path(), Path("/")):
        if text.startswith("file:"):
            return list_shards(Path(url2pathname(urlsplit(text).path)))
        if is_remote(text):
            return _addresses(text)
        text = os.path.expanduser(text)
    found = [_as_file(path) for path in _files(Path(text), text)]
    if not found:
        raise DataError(
            f"there are no shards '{shown(text)}': name a folder of .tar files or a pattern"
        )
    return found


def is_remote(shard: str) -> bool:
    """Whether it is an address rather than a path."""
    return _ADDRESS.match(shard) is not None


def open_shard(shard: str) -> BinaryIO:
    """A shard, opened for reading forwards.

    Raises:
        OSError: it cannot be opened, or is no regular file.
        DataError: webdataset does not open such addresses.
    """
    if not is_remote(shard):
        return open_regular(shard)
    from webdataset.gopen import gopen

    try:
        return cast("BinaryIO", io.BufferedReader(_Stream(gopen(shard)), 1 << 16))
    except (ValueError, ImportError) as error:
        raise DataError(f"cannot open shard '{shard}': {reason(error)}") from error


class _Stream(io.RawIOBase):
    """What webdataset has opened, which only reads, as a stream of Python's."""

    def __init__(self, opened: Any) -> None:
        self._opened = opened

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._opened.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._opened.close()
        super().close()


def _addresses(text: str) -> list[str]:
    from webdataset.shardlists import expand_urls

    _check_number(text, text)
    try:
        return [str(url) for url in expand_urls(text)]
    except (AssertionError, ValueError) as error:  # a variable that is not set, a lone brace
        raise DataError(f"'{text}' cannot be expanded: {reason(error)}") from error


def _as_file(path: Path) -> str:
    text = str(path)
    return f"./{text}" if is_remote(text) else text


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long, or a zero byte
        return False


def _files(path: Path, text: str) -> Iterator[Path]:
    base, rest = _existing(path)
    if not rest:
        yield from _shards_in(base) if base.is_dir() else [base]
        return
    if "::" in rest:  # as webdataset separates several
        for part in text.split("::"):
            yield from map(Path, list_shards(Path(part)))
        return
    listed, missing = _expanded(rest, text), list[Path]()
    for name in listed:
        base_of, pattern = _existing(base / name)
        if not _MAGIC.search(pattern):
            missing += [base / name] * bool(pattern)
            yield from [] if pattern else [base_of]
            continue
        try:
            yield from sorted(base_of.glob(pattern))
        except (OSError, ValueError, NotImplementedError) as error:
            raise DataError(f"'{shown(text)}' is no pattern: {reason(error)}") from error
    if missing:
        first = shown(missing[0])
        raise DataError(f"shard '{first}' does not exist ({len(missing)} of {len(listed)})")


def _existing(path: Path) -> tuple[Path, str]:
    """The longest beginning of a path that is there, and the rest."""
    parts, rest = path, list[str]()
    while not _exists(parts) and parts.name:
        rest.insert(0, parts.name)
        parts = parts.parent
    return parts, "/".join(rest)


def _expanded(pattern: str, text: str) -> list[str]:
    from braceexpand import braceexpand

    _check_number(pattern, text)
    try:
        return list(braceexpand(pattern, escape=False))
    except ValueError:  # braces that are not closed
        return [pattern]


def _check_number(pattern: str, text: str) -> None:
    """Refuse braces that stand for too many, all of which would be made at once."""
    number = 1
    for inside in _BRACES.findall(pattern):
        ends = _RANGE.match(inside)
        number *= abs(int(ends[2]) - int(ends[1])) + 1 if ends else inside.count(",") + 1
    if number > _MOST:
        raise DataError(f"'{shown(text)}' stands for more than {_MOST} shards")


def _shards_in(folder: Path) -> list[Path]:
    """The .tar files of a folder; says which archives are not taken."""
    try:
        files = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"cannot list folder '{shown(folder)}' ({reason(error)})") from error
    names = [(file, file.name.lower()) for file in files if not file.name.startswith(".")]
    found = [file for file, name in names if name.endswith(".tar")]
    ends = (next((end for end in _COMPRESSED if name.endswith(end)), "") for _, name in names)
    others = Counter(end for end in ends if end)
    for end, count in others.items():
        _log.warning(
            "%d files of folder '%s' end in %s and are left out: name them as *%s",
            *(count, shown(folder), end, end),
        )
    return found
