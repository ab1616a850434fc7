"""Images in tar shards (WebDataset)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from ldm.data.image_io import decode_image
from ldm.data.shards.reader import ENDINGS, count_samples, list_shards, read_caption, read_shard
from ldm.errors import DataError
from ldm.evaluation.sources.base import (
    Content,
    ContentCache,
    ContentCounter,
    Head,
    Item,
    ReadSource,
    SourceInfo,
    Unreadable,
    first_of,
    read_ahead,
    read_head,
)
from ldm.evaluation.sources.folder import DECODING, pixels

CAPTIONS = ("txt", "json.caption")

_Sample = Mapping[str, Any]


class ShardSource(ReadSource):
    """The samples of local tar files, in the order in which they are stored.

    Class ids are read from files of the ending cls, captions from txt or json.caption, if the first
    sample has them. Every process reads all shards and decodes its own images. The hash is of
    keys and bytes of the images.

    Args:
        where: a folder of .tar files or a pattern, see ``ldm.data.shards.reader.list_shards``.
        num: use the first so many.
        skip_corrupt: leave out what cannot be read.
        cache: remembers the hash.

    Raises:
        DataError: there are no shards, or they are not local or no tar files.
        UserError: there are fewer samples than ``num``.
    """

    def __init__(
        self,
        where: str,
        num: int | None = None,
        skip_corrupt: bool = False,
        cache: ContentCache | None = None,
    ) -> None:
        self._shards = list_shards(where)
        self._counts = [count_samples(shard) for shard in self._shards]
        self._available = sum(self._counts)
        super().__init__(where, first_of(self._available, num, where), skip_corrupt)
        self._cache = cache or ContentCache()
        first: _Sample = next((s for s in self._samples() if not isinstance(s, Unreadable)), {})
        self._labelled = "cls" in first
        self._caption = next((place for place in CAPTIONS if read_caption(first, place)), None)

    def _samples(self) -> Iterator[_Sample | Unreadable]:
        """The samples; after a shard of which some are lost, how many those are."""
        room = len(self)
        for shard, count in zip(self._shards, self._counts, strict=True):
            damage: list[str] = []
            given = 0
            for sample in islice(read_shard(shard, damage.append), room):
                given += 1
                yield sample
            room -= given
            lost = min(count - given, room)
            if damage or lost > 0:
                reason = damage[0].partition("': ")[2] if damage else "it ends early"
                yield Unreadable(Path(shard).name, f"{lost} of its {count} samples: {reason}")
            if not room:
                return

    def _items(self, rank: int, processes: int) -> Iterator[Item | Unreadable]:
        return read_ahead(self._read, self._share(rank, processes))

    def _share(self, rank: int, processes: int) -> Iterator[tuple[int, _Sample | Unreadable]]:
        index = 0
        for sample in self._samples():
            mine = index % processes == rank if not isinstance(sample, Unreadable) else rank == 0
            if mine:
                yield index, sample
            index += not isinstance(sample, Unreadable)

    def _read(self, numbered: tuple[int, _Sample | Unreadable]) -> Item | Unreadable:
        index, sample = numbered
        if isinstance(sample, Unreadable):
            return sample
        name, data = _name(sample), _image_bytes(sample)
        if data is None:
            return Unreadable(name, f"no {', '.join(ENDINGS)}")
        try:
            image, _ = decode_image(data, name)
        except DataError as error:
            return Unreadable(name, str(error.__cause__ or error))
        label = _label(sample) if self._labelled else None
        return Item(
            index, pixels(image), label, self._caption and read_caption(sample, self._caption)
        )

    def _info(self) -> SourceInfo:
        files = [Path(shard) for shard in self._shards]
        content = self._cache.content(f"shards {len(self)}", files, self._scan)
        facts = {"decoding": DECODING, "shards": len(self._shards)}
        captioned = self._caption is not None
        return self._describe(
            "shards", content, self._available, content.labels, captioned, **facts
        )

    def _scan(self) -> Content:
        counter, labels = ContentCounter(), list[int]()
        samples = (s for s in self._samples() if not isinstance(s, Unreadable))
        for head, label in read_ahead(partial(_head, labelled=self._labelled), samples):
            counter.add(head)
            labels += [] if label is None else [label]
        return counter.content(labels if self._labelled else None)


def _head(sample: _Sample, labelled: bool) -> tuple[Head, int | None]:
    head = read_head(str(sample["__key__"]), _image_bytes(sample) or b"")
    return head, _label(sample) if labelled else None


def _image_bytes(sample: _Sample) -> bytes | None:
    return next((sample[ending] for ending in ENDINGS if ending in sample), None)


def _name(sample: _Sample) -> str:
    return f"{sample['__key__']} of {Path(str(sample['__url__'])).name}"


def _label(sample: _Sample) -> int:
    text = sample.get("cls", b"").strip()
    if not text.isdigit():
        raise DataError(
            f"sample {_name(sample)} has the class id {text!r}, and the first sample has one: give "
            "all samples a whole number in a file of the ending cls, or none"
        )
    return int(text)
