"""The shards of a WebDataset: how many samples each has, and the files of these."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ldm.data.shards.listing import is_remote, open_shard
from ldm.data.shards.samples import USUAL, Naming
from ldm.data.shards.tar import DamagedError, Member, TarReader, Unread, stored_entries
from ldm.errors import DataError
from ldm.files import read_json, reason, shown

SIZES = "sizes.json"
_MOST_SAMPLES = 1_000_000_000
"""In a shard."""
_TOLD = 5
"""Messages of a kind for each shard."""

_log = logging.getLogger(__name__)

T = TypeVar("T")
Samples = Iterator[dict[str, Any]]


def shard_sizes(
    shards: Sequence[str], sizes: str | Path | int | None, naming: Naming = USUAL
) -> list[int]:
    """Number of samples of each shard.

    Args:
        shards: paths or addresses.
        sizes: a number for all of them, or a JSON file that maps their names to numbers. None:
            for local shards, sizes.json beside them, else what img2dataset wrote beside them
            (NAME_stats.json), else the headers in them are counted.
        naming: which files are a sample.

    Raises:
        DataError: sizes are not known.
    """
    if isinstance(sizes, int):
        if not _is_number(sizes):
            raise DataError(f"sizes={sizes}: give the number of samples of each shard, or a file")
        return [sizes] * len(shards)
    if sizes is not None:
        file = Path(sizes).expanduser()
        table = read_json(file, DataError, remedy=f"give a table of {SIZES}", table=True)
        return [_listed(table, shard, file) for shard in shards]
    tables = {folder: _read_json(folder / SIZES) for folder in _folders(shards)}
    known = [_known(shard, tables) for shard in shards]
    unknown = known.count(None)
    if unknown:
        _log.info("counting the samples of %d shards; %s saves this", unknown, SIZES)
    pairs = zip(shards, known, strict=True)
    return [count_samples(shard, naming) if n is None else n for shard, n in pairs]


def count_samples(shard: str, naming: Naming = USUAL) -> int:
    """Samples in a local shard, from its headers alone.

    Args:
        shard: its path.
        naming: which files are a sample.

    Raises:
        DataError: it is not local, or no tar archive.
    """
    if is_remote(shard):
        raise DataError(
            f"the number of samples of '{shard}' is not known: set sizes to a JSON file that maps "
            "names of shards to numbers, or to the number that all have"
        )
    damage, told = list[str](), list[str]()
    try:
        with open_shard(shard) as file:
            entries = _until_damaged(TarReader(file), damage.append)
            names = ((entry.name, None) for entry in entries)
            count = sum(1 for _ in naming.samples(names, shard, told.append))
    except OSError as error:
        raise DataError(f"cannot read shard '{shown(shard)}' ({reason(error)})") from error
    if damage and not count:
        raise DataError(f"cannot read shard '{shown(shard)}' ({damage[0]}): remove it")
    for text in damage:
        _log.warning("shard '%s' is damaged after %d samples (%s)", shown(shard), count, text)
    for text in told[:_TOLD]:
        _log.warning("shard '%s': %s", shown(shard), text)
    return count


def read_shard(
    shard: str,
    report: Callable[[str], None],
    naming: Naming = USUAL,
) -> Samples:
    """The samples of a shard in order, as dicts of ``__key__`` and bytes by ending.

    In place of bytes that are not read stands an ``Unread``.

    Args:
        shard: path or address.
        report: called with what is wrong; the samples before it are given all the same.
        naming: which files are a sample.
    """
    told = set[str]()  # a pipe says when it is read and when it is closed what is wrong

    def tell(text: str) -> None:
        if text not in told:
            report(f"shard '{shown(shard)}': {text}")
        told.add(text)

    def files(tar: TarReader) -> Iterator[tuple[str, bytes | Unread]]:
        for entry in tar:
            yield entry.name, Unread(entry.refused) if entry.refused else tar.read(entry)

    try:
        with open_shard(shard) as file:
            contents = _until_damaged(files(TarReader(file, naming.most)), tell)
            yield from naming.samples(contents, shard, tell)
    except (OSError, DataError) as error:  # of a pipe also when it is closed
        tell(reason(error))


def index_shard(
    shard: str,
    report: Callable[[str], None],
    naming: Naming = USUAL,
) -> list[dict[str, Any]]:
    """The samples of a shard as ``read_shard`` gives them, but ``Member`` in place of bytes.

    Only the headers are read.

    Args:
        shard: path of an uncompressed archive.
        report: called with what is wrong after some samples.
        naming: which files are a sample.

    Raises:
        DataError: it is missing, compressed or no tar archive.
    """
    damage, path = list[str](), Path(shard)

    def tell(text: str) -> None:
        report(f"shard '{shown(shard)}': {text}")

    def files() -> Iterator[tuple[str, Member | Unread]]:
        for entry in stored_entries(path, naming.most):
            name = entry.name.removeprefix("./")
            member = Member(path, name, entry.start, entry.size)
            yield name, Unread(entry.refused) if entry.refused else member

    samples = list(naming.samples(_until_damaged(files(), damage.append), shard, tell))
    for text in damage:
        if not samples:
            raise DataError(text)
        tell(text)
    return samples


def _until_damaged(items: Iterable[T], report: Callable[[str], None]) -> Iterator[T]:
    """Ends where the archive cannot be read further, so that the last whole sample is given."""
    try:
        yield from items
    except (DamagedError, DataError) as error:
        report(str(error))


def _known(shard: str, tables: Mapping[Path, Mapping[str, Any]]) -> int | None:
    if is_remote(shard):
        return None
    path = Path(shard)
    table = tables[path.parent]
    if path.name in table:
        return _listed(table, shard, path.parent / SIZES)
    successes = _read_json(path.with_name(f"{path.stem}_stats.json")).get("successes")
    return successes if _is_number(successes) else None


def _listed(table: Mapping[str, Any], shard: str, where: Path) -> int:
    size = table.get(shard.rsplit("/", 1)[-1], table.get(shard))
    if not _is_number(size):
        raise DataError(
            f"'{shown(where)}' must give the number of samples of '{shown(shard)}', it has "
            f"{str(size)[:20]}"
        )
    return int(size)


def _is_number(size: Any) -> bool:
    return isinstance(size, int) and not isinstance(size, bool) and 0 <= size <= _MOST_SAMPLES


def _read_json(path: Path) -> dict[str, Any]:
    """A table that may be absent."""
    if not os.path.lexists(path):
        return {}
    table: dict[str, Any] = read_json(
        path, DataError, f"'{shown(path)}'", "correct or remove it", table=True
    )
    return table


def _folders(shards: Sequence[str]) -> set[Path]:
    return {Path(shard).parent for shard in shards if not is_remote(shard)}
