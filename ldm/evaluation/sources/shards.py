"""Images in tar shards (WebDataset)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from ldm.data.image_io import decode_image
from ldm.data.shards.decoding import (
    begin_of,
    image_ending,
    missing_image,
    read_captions,
    read_label,
)
from ldm.data.shards.listing import list_shards
from ldm.data.shards.reader import count_samples, read_shard
from ldm.data.shards.tar import Unread as UnreadFile
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
from ldm.files import shown

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
        self._caption = next((place for place in CAPTIONS if read_captions(first, place)), None)

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
                yield Unreadable(
                    shown(Path(shard).name), f"{lost} of its {count} samples: {reason}"
                )
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
        name, ending = _name(sample), image_ending(sample)
        if ending is None:
            return Unreadable(name, f"no {missing_image(sample)}")
        if isinstance(sample[ending], UnreadFile):
            return Unreadable(name, f"its {ending} {sample[ending].why}")
        try:
            image, _ = decode_image(sample[ending], name)
        except DataError as error:
            return Unreadable(name, str(error.__cause__ or error))
        label = _label(sample) if self._labelled else None
        return Item(index, pixels(image), label, self._first_caption(sample))

    def _first_caption(self, sample: _Sample) -> str | None:
        """As of folders; "" where the first sample has one and this one has none."""
        return self._caption and next(iter(read_captions(sample, self._caption)), "")

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
    ending = image_ending(sample)
    data = sample[ending] if ending is not None else b""
    head = read_head(str(sample["__key__"]), data if isinstance(data, bytes) else b"")
    return head, _label(sample) if labelled else None


def _name(sample: _Sample) -> str:
    return f"{shown(sample['__key__'])} of {shown(Path(sample['__url__']).name)}"


def _label(sample: _Sample) -> int:
    label = read_label(sample)
    if label is None:
        raise DataError(
            f"sample {_name(sample)} has the class id {begin_of(sample.get('cls', b''))}, and the "
            "first sample has one: give all samples a whole number in a file of the ending cls, or "
            "none"
        )
    return label
