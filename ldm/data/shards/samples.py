"""Which files of an archive belong together: the samples of a WebDataset, by key and ending.

The key of ``a/0001.seg.png`` is ``a/0001``, all from the first dot of the name on is the ending.
Where keys have dots themselves (``photo.2021.3.jpg``), that rule leaves samples without an image;
then the last dot divides, if that is what the names say.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, islice
from typing import Any, NamedTuple

from ldm.data.image_io import EXTENSIONS
from ldm.data.shards.tar import MOST_MEMBER, Unread
from ldm.files import shown

ENDINGS = tuple(extension.removeprefix(".") for extension in EXTENSIONS)
"""Endings of images."""
RULES = ("auto", "first", "last")
_HELD = 64
"""Files of one key that are looked at to tell which dot divides it from the endings."""
_SHOWN = 8
_META = re.compile(r"__[^/]*__($|/)")

Report = Callable[[str], None]


class _File(NamedTuple):
    """A file of a sample: its content, its key and ending, and those that the last dot gives."""

    content: Any
    key: str
    ending: str
    last: tuple[str, str]


@dataclass(frozen=True)
class Naming:
    """How the names of files tell samples and endings.

    Attributes:
        images: endings of images, in small letters; the first that a sample has is taken.
        rule: which dot divides key and ending: first, last, or auto = the first, unless that
            leaves no image and the last one gives images with files of the same name beside them.
        most: bytes that the files of a sample may have together.
    """

    images: Sequence[str] = ENDINGS
    rule: str = "auto"
    most: int = MOST_MEMBER

    def samples(
        self, files: Iterable[tuple[str, Any]], shard: str, report: Report
    ) -> Iterator[dict[str, Any]]:
        """Neighbouring files of a key, as dicts of ``__key__``, ``__url__`` and content by ending.

        Endings are in small letters. Names without an ending, hidden ones and those that begin
        with ``__NAME__`` are of no sample.

        Args:
            files: names and contents, in their order.
            shard: where they are.
            report: called with what is wrong.
        """
        seen, told = set[int](), False
        for sample in self._groups(files, shard, report):
            key = hash(_normal(sample["__key__"]))
            if key in seen and not told:
                report(
                    f"the files of sample '{shown(sample['__key__'])}' are not neighbours, "
                    "and each part counts as a sample: write the archive sorted by name (tar "
                    "--sort=name)"
                )
                told = True
            seen.add(key)
            yield sample

    def _groups(
        self, files: Iterable[tuple[str, Any]], shard: str, report: Report
    ) -> Iterator[dict[str, Any]]:
        named = (f for f in (_named(name, content) for name, content in files) if f is not None)
        for _, run in groupby(named, lambda file: _normal(file.key)):
            yield from self._of_one_key(run, shard, report)

    def _of_one_key(
        self, files: Iterator[_File], shard: str, report: Report
    ) -> Iterator[dict[str, Any]]:
        head = list(islice(files, _HELD))
        every = chain(head, files)
        if not self._by_last_dot(head):
            yield from self._assembled(every, shard, report)
            return
        for _, part in groupby(every, lambda file: _normal(file.last[0])):
            again = (_File(file.content, *file.last, file.last) for file in part)
            yield from self._assembled(again, shard, report)

    def _assembled(
        self, files: Iterable[_File], shard: str, report: Report
    ) -> Iterator[dict[str, Any]]:
        sample: dict[str, Any] = {}
        room = self.most
        for file in files:
            if file.ending in sample and file.key == sample["__key__"]:
                name = shown(f"{file.key}.{file.ending}")
                report(f"'{name}' is there twice: the first one is used")
                continue
            if not sample or file.ending in sample:  # the same name, written in another way
                if sample:
                    yield sample
                sample, room = {"__key__": file.key, "__url__": shard}, self.most
            content = file.content
            room -= len(content) if isinstance(content, bytes) else 0
            sample[file.ending] = (
                content
                if room >= 0
                else Unread(f"is one too many: {self.most} bytes are read of a sample")
            )
        if sample:
            yield sample

    def _by_last_dot(self, files: Sequence[_File]) -> bool:
        if self.rule != "auto":
            return self.rule == "last"
        if any(file.ending in self.images for file in files):
            return False
        parts: dict[str, list[str]] = {}
        for file in files:
            parts.setdefault(_normal(file.last[0]), []).append(file.last[1])
        with_image = [part for part in parts.values() if set(part) & set(self.images)]
        if len(files) >= _HELD:  # no sample has so many
            return bool(with_image)
        accompanied = sum(len(part) > 1 for part in with_image)
        return len(with_image) == len(parts) == 1 or 2 * accompanied > len(parts)


def _named(name: str, content: Any) -> _File | None:
    folder, slash, base = name.rpartition("/")
    if _META.match(name) or base.startswith(".") or "." not in base:
        return None
    first, _, ending = base.partition(".")
    stem, _, last = base.rpartition(".")
    before = folder + slash
    return _File(content, before + first, ending.lower(), (before + stem, last.lower()))


def _normal(key: str) -> str:
    """The same for a name however its accents are written (macOS takes them apart)."""
    return key if key.isascii() else unicodedata.normalize("NFC", key)


USUAL = Naming()
"""As webdataset names them."""


def endings_of(sample: Mapping[str, Any]) -> list[str]:
    """The endings of the files of a sample."""
    return [ending for ending in sample if ending not in ("__key__", "__url__")]


def describe_endings(sample: Mapping[str, Any]) -> str:
    """What files a sample has, for messages."""
    endings = endings_of(sample)
    there = ", ".join(map(shown, endings[:_SHOWN])) + (", ..." * (len(endings) > _SHOWN))
    return f"it has {there}"
