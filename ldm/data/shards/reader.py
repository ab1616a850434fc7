"""The shards of a WebDataset: which there are, how many samples each has, and reading them.

``SampleReader`` makes image, caption and class of the files of a sample, or says why it cannot.
"""

from __future__ import annotations

import json
import logging
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ldm.data.image_io import AS_IT_IS, Reading, decode_image, reading_as
from ldm.data.shards.tar import stored_members
from ldm.errors import DataError
from ldm.files import read_json

SIZES = "sizes.json"
_META = re.compile(r"__[^/]*__($|/)")

_log = logging.getLogger(__name__)

Samples = Iterator[dict[str, Any]]


def list_shards(shards: str | Path | Sequence[str]) -> list[str]:
    """Paths and addresses of shards, sorted.

    Args:
        shards: a folder with .tar files, a pattern with ``*`` or with braces
            (``data/{00000..00123}.tar``), an address that webdataset opens (https:, pipe:), or a
            list of these.

    Raises:
        DataError: there are none.
    """
    if not isinstance(shards, (str, Path)):
        return [shard for part in shards for shard in list_shards(part)]
    path = Path(str(shards)).expanduser()
    if path.is_dir():
        found = [str(file) for file in sorted(path.glob("*.tar"))]
    elif "*" in str(path) and not is_remote(str(shards)):
        found = [str(file) for file in sorted(path.parent.glob(path.name))]
    else:
        from webdataset.shardlists import expand_urls

        found = expand_urls(str(shards) if is_remote(str(shards)) else str(path))
        missing = [url for url in found if not is_remote(url) and not Path(url).is_file()]
        if missing:
            raise DataError(f"shard '{missing[0]}' does not exist ({len(missing)} of {len(found)})")
    if not found:
        raise DataError(f"there are no shards '{shards}': name a folder of .tar files or a pattern")
    return found


def shard_sizes(shards: Sequence[str], sizes: str | Path | int | None) -> list[int]:
    """Number of samples of each shard.

    Args:
        shards: paths or addresses.
        sizes: a number for all of them, or a JSON file that maps their names to numbers. None:
            for local shards, sizes.json beside them, else what img2dataset wrote beside them
            (NAME_stats.json), else the headers in them are counted.

    Raises:
        DataError: sizes are not known.
    """
    if isinstance(sizes, int):
        return [sizes] * len(shards)
    if sizes is not None:
        table = _read_json(Path(sizes).expanduser())
        return [_listed(table, shard, str(sizes)) for shard in shards]
    tables = {folder: _read_json(folder / SIZES) for folder in _folders(shards)}
    known = [_known(shard, tables) for shard in shards]
    unknown = known.count(None)
    if unknown:
        _log.info("counting the samples of %d shards; %s saves this", unknown, SIZES)
    return [
        count_samples(shard) if n is None else n for shard, n in zip(shards, known, strict=True)
    ]


def count_samples(shard: str) -> int:
    """Samples in a local shard, from its headers alone.

    Raises:
        DataError: it is not local, or no tar archive.
    """
    from webdataset.tariterators import base_plus_ext

    if is_remote(shard):
        raise DataError(
            f"the number of samples of '{shard}' is not known: set sizes to a JSON file that maps "
            "names of shards to numbers, or to the number that all have"
        )
    count, last = 0, None
    try:
        with tarfile.open(shard) as tar:
            for info in tar:
                key = base_plus_ext(info.name)[0]
                if info.isreg() and not _META.match(info.name) and key not in (None, last):
                    count, last = count + 1, key
    except (OSError, EOFError, tarfile.TarError) as error:
        if not count:
            raise DataError(f"cannot read shard '{shard}' ({error}): remove it") from error
        _log.warning("shard '%s' is damaged after %d samples (%s)", shard, count, error)
    return count


def read_shard(shard: str, report: Callable[[str], None]) -> Samples:
    """The samples of a shard in order, as dicts of ``__key__`` and bytes by ending.

    Args:
        shard: path or address.
        report: called with what is wrong; the samples before it are given all the same.
    """
    from webdataset.gopen import gopen
    from webdataset.tariterators import group_by_keys, tar_file_iterator

    def handle(error: Exception) -> bool:
        report(f"shard '{shard}': {' '.join(str(error).split())}")
        return True

    def files() -> Samples:
        stream = gopen(shard)
        with stream:
            for file in tar_file_iterator(stream, handler=handle):
                yield {**file, "__url__": shard}

    try:
        yield from group_by_keys(_until_broken(files(), handle), handler=handle)
    except (OSError, EOFError, tarfile.TarError, ValueError) as error:
        handle(error)


def index_shard(shard: str, report: Callable[[str], None]) -> list[dict[str, Any]]:
    """The samples of a shard as ``read_shard`` gives them, but ``Member`` in place of bytes.

    Only the headers are read.

    Args:
        shard: path of an uncompressed archive.
        report: called with what is wrong after some samples.

    Raises:
        DataError: it is missing, compressed or no tar archive.
    """
    from webdataset.tariterators import group_by_keys

    damage: list[str] = []

    def handle(error: Exception) -> bool:
        damage.append(" ".join(str(error).split()))
        return True

    def files() -> Samples:
        for member in stored_members(Path(shard)):
            if not _META.match(member.name):
                yield {"fname": member.name, "data": member, "__url__": shard}

    samples = list(group_by_keys(_until_broken(files(), handle), handler=handle))
    for text in damage:
        if not samples:
            raise DataError(text)
        report(f"shard '{shard}': {text}")
    return samples


def _until_broken(files: Samples, handle: Callable[[Exception], bool]) -> Samples:
    """Ends where the archive cannot be read further, so that the last whole sample is given."""
    try:
        yield from files
    except (OSError, EOFError, tarfile.TarError, ValueError) as error:
        handle(error)


def _known(shard: str, tables: Mapping[Path, Mapping[str, Any]]) -> int | None:
    if is_remote(shard):
        return None
    path = Path(shard)
    table = tables[path.parent]
    if path.name in table:
        return _listed(table, shard, str(path.parent / SIZES))
    successes = _read_json(path.with_name(f"{path.stem}_stats.json")).get("successes")
    return successes if isinstance(successes, int) else None


def _listed(table: Mapping[str, Any], shard: str, where: str) -> int:
    size = table.get(shard.rsplit("/", 1)[-1], table.get(shard))
    if not isinstance(size, int) or size < 0:
        raise DataError(f"'{where}' must give the number of samples of '{shard}', it has {size!r}")
    return size


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    tree = read_json(path, DataError, f"'{path}'", "correct or remove it")
    return tree if isinstance(tree, dict) else {}


def _folders(shards: Sequence[str]) -> set[Path]:
    return {Path(shard).parent for shard in shards if not is_remote(shard)}


def is_remote(shard: str) -> bool:
    """Whether it is an address rather than a path."""
    return re.match(r"[a-z][a-z0-9+]+:", shard) is not None


ENDINGS = ("jpg", "jpeg", "png", "webp")
NO_IMAGE, UNREADABLE = "no image", "unreadable image"
TOO_SMALL, TOO_LONG = "too small", "too elongated"
NO_CAPTION, NO_CLASS = "no caption", "no class"
REASONS = (NO_IMAGE, UNREADABLE, TOO_SMALL, TOO_LONG, NO_CAPTION, NO_CLASS)


class UnusableError(Exception):
    """A sample that is left out.

    Args:
        reason: one of ``REASONS``.
        message: which sample, and what is wrong with it.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class SampleReader:
    """Makes image and entries of the files of a sample.

    Attributes:
        caption: where the caption is: an ending (txt), or an ending and a key (json.caption); None
            if there is none.
        classes: number of classes, ids in files of the ending cls; None: no classes.
        min_size: least shorter side of an image, in pixels as stored.
        max_aspect: largest ratio of longer to shorter side; None accepts any.
        needed: shorter side to which an image may be reduced while it is decoded.
        reading: how images are read.
    """

    caption: str | None
    classes: int | None
    min_size: int
    max_aspect: float | None
    needed: int | None
    reading: Reading = AS_IT_IS

    def __call__(self, sample: Mapping[str, Any]) -> tuple[Image.Image, dict[str, Any]]:
        """The image, and ``caption`` and ``class_label`` as asked for.

        Args:
            sample: bytes by ending, with ``__key__`` and ``__url__``.

        Raises:
            UnusableError: something is missing or wrong.
        """
        name = f"sample '{sample['__key__']}' of '{sample['__url__']}'"
        entries: dict[str, Any] = {}
        if self.caption is not None:
            entries["caption"] = read_caption(sample, self.caption)
            if not entries["caption"]:
                raise UnusableError(NO_CAPTION, f"{name} has no {self.caption}")
        if self.classes is not None:
            label = sample.get("cls", b"").strip()
            if not label.isdigit() or int(label) >= self.classes:
                raise UnusableError(NO_CLASS, f"{name} has the class id {label!r}")
            entries["class_label"] = int(label)
        return self._image(sample, name), entries

    def _image(self, sample: Mapping[str, Any], name: str) -> Image.Image:
        ending = next((ending for ending in ENDINGS if ending in sample), None)
        if ending is None:
            raise UnusableError(NO_IMAGE, f"{name} has no {', '.join(ENDINGS)}")
        try:
            with reading_as(self.reading):
                image, size = decode_image(sample[ending], name, self.needed)
        except DataError as error:
            raise UnusableError(UNREADABLE, str(error)) from error
        pixels = f"{name} of {size[0]} x {size[1]} pixels"
        if min(size) < self.min_size:
            raise UnusableError(TOO_SMALL, pixels)
        if self.max_aspect is not None and max(size) > self.max_aspect * min(size):
            raise UnusableError(TOO_LONG, pixels)
        return image


def read_caption(sample: Mapping[str, Any], place: str) -> str:
    """The caption of a sample as one line, "" if there is none.

    Args:
        sample: bytes by ending.
        place: an ending (txt) or an ending and a key (json.caption).
    """
    ending, _, key = place.partition(".")
    try:
        value: Any = sample[ending].decode("utf-8")
        value = json.loads(value)[key] if key else value
    except (KeyError, ValueError, TypeError):
        return ""
    return " ".join(value.split()) if isinstance(value, str) else ""
