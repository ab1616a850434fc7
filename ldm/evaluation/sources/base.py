"""Where the images of an evaluation come from: the contract, and what all kinds have in common.

A source gives batches of pixels and says, in a hash and a few counts, what its images are. Files
are read and decoded in threads while a network works on those before; hashes that are slow to find
are remembered.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from torch import Tensor

from ldm.data.image_io import read_format
from ldm.errors import UserError
from ldm.files import read_json, reason, shown, write_text

SHOWN = 5
"""Unreadable images that a message names."""
MOST_THREADS = 8
_AHEAD = 4
"""Results that wait per thread."""
_CHECK = "checksum"
_FORMAT = 1
"""Of remembered hashes: another number makes all of them void."""

_log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class SourceInfo:
    """What a report says about a source.

    Attributes:
        kind: folder, npz, shards, dataset, model or statistics.
        where: as the user wrote it.
        count: images, or samples behind stored statistics (0: not recorded).
        sha256: of the content in order, as a hex digest; see the kinds for what is hashed.
        about: file formats, sizes, dtype, labels, sampler settings and the like.
    """

    kind: str
    where: str
    count: int
    sha256: str
    about: dict[str, Any] = field(default_factory=dict)


class Batch(NamedTuple):
    """Some images of a source.

    Attributes:
        indices: places in the source, ascending.
        images: uint8 (3, H, W), RGB; sizes may differ.
        labels: class ids, None where the source has none.
        captions: None where the source has none.
    """

    indices: list[int]
    images: list[Tensor]
    labels: list[int] | None
    captions: list[str] | None


class ImageSource(Protocol):
    """Images in an order, to be read any number of times.

    Attributes:
        corrupt: the images that could not be read in the passes so far, each once.
    """

    corrupt: list[str]

    @property
    def info(self) -> SourceInfo:
        """What a report says; may need a pass over the images, the first time."""
        ...

    def __len__(self) -> int:
        """Images, the unreadable ones included."""
        ...

    def batches(self, batch_size: int, rank: int = 0, processes: int = 1) -> Iterator[Batch]:
        """The images of one process: number i belongs to process i % ``processes``.

        Raises:
            CorruptImages: at the end of the pass, if images could not be read.
        """
        ...


class CorruptImages(UserError):  # noqa: N818  (the name says what there is)
    """Images that cannot be read; scripts exit with a status of its own."""

    exit_status = 3


@dataclass(frozen=True)
class Item:
    """One image of a source: uint8 (3, H, W)."""

    index: int
    image: Tensor
    label: int | None = None
    caption: str | None = None


@dataclass(frozen=True)
class Unreadable:
    """What stands where an image should be, and why it cannot be used."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{shown(self.name)} ({shown(' '.join(self.reason.split()))})"


class ReadSource(ABC):
    """An ``ImageSource`` that reads: batches, and the account of what is unreadable.

    Args:
        where: as the user wrote it.
        count: images.
        skip_corrupt: leave out what cannot be read instead of raising at the end of a pass.
    """

    def __init__(self, where: str, count: int, skip_corrupt: bool) -> None:
        self.where, self.corrupt = where, list[str]()
        self._count, self._skip_corrupt = count, skip_corrupt

    @cached_property
    def info(self) -> SourceInfo:
        """See ``ImageSource``."""
        return self._info()

    def __len__(self) -> int:
        return self._count

    def batches(self, batch_size: int, rank: int = 0, processes: int = 1) -> Iterator[Batch]:
        """See ``ImageSource``."""
        if batch_size < 1 or not 0 <= rank < processes:
            raise ValueError(f"batch size {batch_size}, process {rank} of {processes}")
        waiting, readable, corrupt = list[Item](), 0, list[str]()
        for item in self._items(rank, processes):
            if isinstance(item, Unreadable):
                corrupt.append(str(item))
                continue
            waiting.append(item)
            readable += 1
            if len(waiting) == batch_size:
                yield _batch(waiting)
                waiting = []
        if waiting:
            yield _batch(waiting)
        self.corrupt += [name for name in corrupt if name not in self.corrupt]
        if corrupt and not (self._skip_corrupt and (readable or processes > 1)):
            raise CorruptImages(self._complaint(corrupt, readable))

    @abstractmethod
    def _items(self, rank: int, processes: int) -> Iterator[Item | Unreadable]:
        """The share of a process, in order."""

    @abstractmethod
    def _info(self) -> SourceInfo:
        """What a report says."""

    def _describe(
        self,
        kind: str,
        content: Content,
        available: int,
        labels: list[int] | None,
        captions: bool,
        **about: Any,
    ) -> SourceInfo:
        """What a report says of any kind: which of the ``available`` images, labels, captions."""
        used = len(self)
        chosen = (
            f"all {used}" if used == available else f"the first {used} of {available}, in order"
        )
        about |= {"selection": chosen, "labels": describe_labels(labels), "captions": captions}
        about = {**content.about(), "dtype": "uint8", **about}
        return SourceInfo(kind, self.where, used, content.sha256, about)

    def _complaint(self, corrupt: Sequence[str], readable: int) -> str:
        names = ", ".join(corrupt[:SHOWN]) + (", ..." if len(corrupt) > SHOWN else "")
        if not readable:
            return f"not one of the images of '{self.where}' can be read: {names}"
        return (
            f"{len(corrupt)} of the {len(self)} images of '{self.where}' cannot be read: {names}; "
            "repair or remove them, or leave them out with --skip-corrupt"
        )


def first_of(available: int, num: int | None, where: str) -> int:
    """How many images are used: the first ``num``, or all.

    Raises:
        UserError: there are not so many.
    """
    if num is None:
        return available
    if not 1 <= num <= available:
        raise UserError(f"{num} images of '{where}': it has {available}; ask for 1 to {available}")
    return num


def describe_labels(labels: Sequence[int] | None) -> dict[str, int] | None:
    """How many classes there are, and images of the rarest and of the most frequent one."""
    if not labels:
        return None
    counts = dict.fromkeys(labels, 0)
    for label in labels:
        counts[label] += 1
    return {"classes": len(counts), "fewest": min(counts.values()), "most": max(counts.values())}


def _batch(items: Sequence[Item]) -> Batch:
    labels = [item.label for item in items if item.label is not None]
    captions = [item.caption for item in items if item.caption is not None]
    return Batch(
        indices=[item.index for item in items],
        images=[item.image for item in items],
        labels=labels if len(labels) == len(items) else None,
        captions=captions if len(captions) == len(items) else None,
    )


def read_ahead(read: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """``map(read, items)`` by a few threads: in order, with bounded memory.

    It pays where ``read`` leaves the interpreter's lock: files, hashes, Pillow's decoders.
    """
    threads = min(MOST_THREADS, os.cpu_count() or 1)
    pool = ThreadPoolExecutor(threads)
    pending: deque[Future[R]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(read, item))
            if len(pending) >= threads * _AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class Content:
    """What the images of a source are.

    Attributes:
        sha256: hex digest of names and content, in order.
        count: images, the unreadable ones included.
        formats: how many files there are of each format ("unreadable" where the head is damaged).
        modes: the same of colour modes as stored, in Pillow's words.
        sizes: least and greatest height and width as stored; empty if none is known.
        labels: class ids, where reading the images is what tells them.
    """

    sha256: str
    count: int
    formats: dict[str, int]
    modes: dict[str, int]
    sizes: dict[str, list[int]]
    labels: list[int] | None = None

    def about(self) -> dict[str, Any]:
        """The entries of ``SourceInfo.about``."""
        return {"formats": self.formats, "modes": self.modes, "sizes": self.sizes}


@dataclass(frozen=True)
class Head:
    """One image: name, digest of its content, format, mode, (height, width) as stored."""

    name: str
    digest: str
    format: str
    mode: str = ""
    size: tuple[int, int] | None = None


def read_head(name: str, data: bytes) -> Head:
    """What the bytes of an image file say; pixels are not decoded."""
    digest = hashlib.sha256(data).hexdigest()
    known = read_format(data)
    if known is None:
        return Head(name, digest, "unreadable")
    kind, mode, (width, height) = known
    return Head(name, digest, kind, mode, (height, width))


def name_bytes(text: str) -> bytes:
    """What is hashed of a text with names of files: a name that is no UTF-8 keeps its bytes."""
    try:
        return os.fsencode(text)
    except UnicodeEncodeError:  # half of a surrogate pair, from an archive
        return text.encode("utf-8", "surrogatepass")


@dataclass
class ContentCounter:
    """Gathers the heads of the images of a source, in their order."""

    count: int = 0
    _digest: Any = field(default_factory=hashlib.sha256)
    _formats: Counter[str] = field(default_factory=Counter)
    _modes: Counter[str] = field(default_factory=Counter)
    _sizes: Counter[tuple[int, int]] = field(default_factory=Counter)

    def add(self, head: Head) -> None:
        """The next image."""
        self._digest.update(name_bytes(f"{head.name}\0{head.digest}\0"))
        self.count += 1
        self._formats[head.format] += 1
        if head.size is not None:
            self._modes[head.mode] += 1
            self._sizes[head.size] += 1

    def content(self, labels: list[int] | None = None) -> Content:
        """What has been added."""
        sizes = {}
        if self._sizes:
            heights, widths = zip(*self._sizes, strict=True)
            sizes = {
                "height": [min(heights), max(heights)],
                "width": [min(widths), max(widths)],
            }
        formats, modes = dict(self._formats), dict(self._modes)
        return Content(self._digest.hexdigest(), self.count, formats, modes, sizes, labels)


@dataclass(frozen=True)
class ContentCache:
    """Remembers contents by what, paths, sizes and times of change of the files behind them.

    Attributes:
        folder: where; None: nothing is remembered.
    """

    folder: Path | None = None

    def content(self, what: str, files: Sequence[Path], scan: Callable[[], Content]) -> Content:
        """The content as remembered, else as scanned.

        Args:
            what: all else that decides about the content.
            files: that it is read from.
            scan: reads them.
        """
        if self.folder is None:
            return scan()
        file = self.folder / f"source-{_key(what, files)}.json"
        if os.path.lexists(file):
            try:
                return _remembered(read_json(file, table=True))
            except (UserError, TypeError, ValueError) as error:
                _log.warning("%s is damaged and made anew (%s)", shown(file), reason(error))
        content = scan()
        entries = asdict(content)
        write_text(file, json.dumps({**entries, _CHECK: _checksum(entries)}))
        return content


def _remembered(entries: dict[str, Any]) -> Content:
    """What a file of the cache says, if it is whole; the last release wrote no checksum."""
    if entries.pop(_CHECK, None) not in (_checksum(entries), None):
        raise ValueError("its checksum is another")
    content = Content(**entries)
    tables = (content.formats, content.modes, content.sizes)
    if not isinstance(content.sha256, str) or not all(isinstance(t, dict) for t in tables):
        raise TypeError("not what was written")
    return content


def _checksum(entries: dict[str, Any]) -> str:
    text = json.dumps({**entries, _CHECK: None}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _key(what: str, files: Sequence[Path]) -> str:
    digest = hashlib.sha256(name_bytes(f"{_FORMAT}\0{what}"))
    for path in files:
        try:
            stat = path.stat()
            state = f"{stat.st_size}:{stat.st_mtime_ns}"
        except OSError:
            state = "absent"
        digest.update(name_bytes(f"\0{path.absolute()}\0{state}"))
    return digest.hexdigest()[:32]
