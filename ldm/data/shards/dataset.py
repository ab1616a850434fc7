"""Captioned images in tar shards, as img2dataset writes them (LAION): a WebDataset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import IterableDataset, get_worker_info

from ldm.data.captions import Tokenizer, choose_caption
from ldm.data.framing import Framing, to_tensor
from ldm.data.image_io import Reading, as_reading
from ldm.data.items import SharedEpoch, Skips, check_choice
from ldm.data.shards.decoding import REASONS, Complaint, SampleReader, UnusableError
from ldm.data.shards.listing import list_shards
from ldm.data.shards.plan import Place, Plan, process_place
from ldm.data.shards.reader import read_shard, shard_sizes
from ldm.data.shards.samples import ENDINGS, RULES, Naming
from ldm.data.shards.tar import MOST_MEMBER
from ldm.errors import DataError
from ldm.files import shown

DAMAGED = "damaged shard"
_MOST_WAITING = 1 << 32
"""Bytes of samples between which the next one is drawn."""
_CAPTION = 1
"""Purpose of the draw of a caption, which leaves crops as they are."""

Numbered = tuple[int, dict[str, Any]]
"""A sample and its place in the set."""


class Shards(IterableDataset[dict[str, Any]]):
    """Images with captions or classes from tar files, in a stream.

    Each item is a dict of ``image`` float (3, H, W) in [-1, 1] and, as asked for, ``caption`` str,
    ``tokens`` long (L,) and ``class_label`` int.

    The order depends on (seed, epoch), the number of processes and that of workers; the crop of an
    image on (seed, epoch, its place in the set). Every epoch shows each sample once, see
    ``ldm.data.shards.plan``. What cannot be used is left out, counted in ``skips`` and logged; in
    its place a worker shows some of its samples again, so that an epoch always has the same length
    in every process.

    Args:
        shards: a folder of .tar files, a pattern, an address or a list; see
            ``ldm.data.shards.reader.list_shards``.
        framing: how images are framed.
        caption: where the caption is: an ending (txt), or an ending and a key (json.caption); None
            if there is none. Of several, the lines of a text or a list in JSON, each epoch draws
            one.
        classes: number of classes, ids in files of the ending cls; None: no classes.
        epoch_size: samples of an epoch, over all processes; None: as many as there are.
        sizes: samples per shard, see ``ldm.data.shards.reader.shard_sizes``.
        split: all, train or validation, the last ``validation_shards`` shards.
        validation_shards: how many shards are held out; 0: none, all are in both splits, for
            validation on other shards.
        shuffle: another order in each epoch; without it the order is that of the files.
        buffer: samples between which the next one is drawn.
        min_size: least shorter side of an image, in pixels as stored.
        max_aspect: largest ratio of longer to shorter side; None accepts any.
        seed: of the order, crops and flips.
        tokenizer: maps a caption to a long tensor (L,) or (1, L).
        image: ending of the image or several, of which the first that a sample has is taken
            (``input.jpg``, ``tif``); None: ``ldm.data.shards.samples.ENDINGS``.
        dot: which dot of a file's name divides key and ending: first, last or auto, see
            ``ldm.data.shards.samples.Naming``.
        most_bytes: that a file of a sample, and all of them together, may have; larger ones are
            not read.
        reading: see ``ldm.data.FramedImages``.

    Attributes:
        shards: their paths and addresses.
        sizes: samples of each.
        naming: which files are a sample.
        read: makes image and entries of the files of a sample.

    Raises:
        DataError: there are no shards, or the options do not go together.
    """

    def __init__(
        self,
        shards: str | Path | Sequence[str],
        framing: Framing,
        caption: str | None = "txt",
        classes: int | None = None,
        epoch_size: int | None = None,
        sizes: str | Path | int | None = None,
        split: str = "all",
        validation_shards: int = 1,
        shuffle: bool = True,
        buffer: int = 2000,
        min_size: int = 0,
        max_aspect: float | None = None,
        seed: int = 0,
        tokenizer: Tokenizer | None = None,
        image: str | Sequence[str] | None = None,
        dot: str = "auto",
        most_bytes: int = MOST_MEMBER,
        reading: Reading | Mapping[str, Any] | None = None,
    ) -> None:
        if tokenizer is not None and caption is None:
            raise DataError("shards without caption have nothing to tokenise: set caption=txt")
        check_choice("shards", "dot", dot, RULES)
        for name, value in (
            ("buffer", buffer),
            ("epoch_size", epoch_size),
            ("most_bytes", most_bytes),
        ):
            if value is not None and value < 1:
                raise DataError(f"shards: {name}={value} must be at least 1")
        self.shards = _choose(list_shards(shards), split, validation_shards)
        self.framing, self.seed = framing, seed
        self.naming = Naming(_image_endings(image), dot, most_bytes)
        self.read = SampleReader(
            caption,
            classes,
            min_size,
            max_aspect,
            framing.needed,
            self.naming.images,
            as_reading(reading),
        )
        self._buffer, self._tokenizer = buffer if shuffle else 1, tokenizer
        self.sizes = shard_sizes(self.shards, sizes, self.naming)
        count = sum(self.sizes)
        if not count:
            raise DataError(f"the {len(self.sizes)} shards of {_where(shards)} hold no samples")
        self._plan = Plan(self.sizes, epoch_size or count, shuffle, seed)
        self.skips = Skips([DAMAGED, *REASONS])
        self._epoch = SharedEpoch()
        # In shared memory, so that workers that outlive an epoch see the change.
        self._batches = torch.zeros((2,), dtype=torch.int64, device="cpu").share_memory_()
        self._unit = torch.ones((2,), dtype=torch.int64, device="cpu").share_memory_()
        self._place: Place | None = None

    def __len__(self) -> int:
        """Samples of an epoch in this process."""
        unit, multiple = self._unit.tolist()
        return self._plan.units(self._where().world, unit, multiple) * unit

    def whole_batches(self, batch_size: int, multiple: int = 1) -> None:
        """Give every worker whole batches, so that none has a remainder that cannot be used.

        A process then leaves out less than ``multiple`` batches of an epoch, others in each.

        Args:
            batch_size: samples of a batch.
            multiple: the batches of a process are a multiple of this.
        """
        self._unit.copy_(torch.tensor([batch_size, multiple]))

    def set_epoch(self, epoch: int) -> None:
        """Choose order and crops of the next iteration; a new epoch starts at its beginning."""
        if epoch != int(self._epoch):
            self._batches.zero_()
        self._epoch.set(epoch)

    def resume_at(self, epoch: int, batches: int, batch_size: int) -> None:
        """Let iterations begin within an epoch, until ``set_epoch`` is told of another.

        The samples before are read and decoded, since only then it is known which are usable.

        Args:
            epoch: which.
            batches: batches that this process has taken in it, one from each worker in turn.
            batch_size: samples of a batch.
        """
        self._epoch.set(epoch)
        self._batches.copy_(torch.tensor([batches, batch_size]))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_place": self._where()}  # a spawned worker cannot ask

    def __iter__(self) -> Iterator[dict[str, Any]]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        epoch = int(self._epoch)
        batches, size = self._batches.tolist()
        worker = (worker + batches) % workers  # the one whose turn it is gives the first batch
        unit, multiple = self._unit.tolist()
        start, count = self._plan.share(self._where(), worker, workers, unit, multiple)
        done = min(count, size * (batches // workers + (worker < batches % workers)))
        usable = islice(self._usable(epoch, start, count), done, count)
        for number, image, entries in usable:
            yield self.framed(epoch, number, image, entries)

    def _where(self) -> Place:
        return self._place or process_place()

    def _usable(
        self, epoch: int, start: int, count: int
    ) -> Iterator[tuple[int, Image.Image, dict[str, Any]]]:
        """Decoded samples of a stretch, again and again, each with its place in the set."""
        again, complaint = 0, Complaint()
        while count:
            found = False
            rng = np.random.default_rng((self.seed, epoch, start, again))
            for number, sample in _shuffled(self._raw(epoch, start, count), self._buffer, rng):
                try:
                    image, entries = self.read(sample)
                except UnusableError as error:
                    self.skips.add(error.reason, f"{error}: left out")
                    complaint.add(sample, str(error))
                    continue
                found = True
                yield number, image, entries
            if not found:
                raise DataError(
                    f"not one of {count} samples from '{shown(self.shards[0])}' on is usable: "
                    f"{self.skips.counts()}; {complaint}"
                )
            again += 1

    def _raw(self, epoch: int, start: int, count: int) -> Iterator[Numbered]:
        for span in self._plan.spans(epoch, start, count):
            shard, place, told = self.shards[span.shard], span.start, list[str]()

            def report(text: str, told: list[str] = told) -> None:
                told.append(text)
                self._report(text)

            samples = read_shard(shard, report, self.naming)
            for sample in islice(samples, span.start, span.stop):
                yield span.offset + place, sample
                place += 1
            if place < span.stop and not told:
                report(f"shard '{shown(shard)}' has fewer than {span.stop} samples")

    def _report(self, text: str) -> None:
        self.skips.add(DAMAGED, text)

    def framed(
        self, epoch: int, number: int, image: Image.Image, entries: dict[str, Any]
    ) -> dict[str, Any]:
        """The item of a sample that ``read`` has given.

        Args:
            epoch: which, for its crop.
            number: its place in the set.
            image: as it was decoded.
            entries: captions and class.
        """
        uniform = np.random.default_rng((self.seed, epoch, number)).random
        item = {"image": to_tensor(self.framing(image, uniform)), **entries}
        captions = item.pop("captions", None)
        if captions is not None:
            draw = np.random.default_rng((self.seed, epoch, number, _CAPTION)).random
            item["caption"] = choose_caption(captions, draw)
        if self._tokenizer is not None:
            item["tokens"] = self._tokenizer(item["caption"]).reshape(-1)
        return item


def _shuffled(
    samples: Iterator[Numbered], buffer: int, rng: np.random.Generator
) -> Iterator[Numbered]:
    """The samples, each drawn from those that wait in a buffer; a buffer of 1 keeps the order."""
    waiting, total = list[Numbered](), 0
    for sample in samples:
        waiting.append(sample)
        total += _bytes(sample)
        while len(waiting) > max(1, buffer if total <= _MOST_WAITING else 1):
            i = int(rng.integers(len(waiting) - 1))
            total -= _bytes(waiting[i])
            yield waiting[i]
            waiting[i] = waiting[-1]
            waiting.pop()
    order = rng.permutation(len(waiting)) if buffer > 1 else range(len(waiting))
    yield from (waiting[i] for i in order)


def _bytes(numbered: Numbered) -> int:
    return sum(len(content) for content in numbered[1].values() if isinstance(content, bytes))


def _image_endings(image: str | Sequence[str] | None) -> Sequence[str]:
    given = [image] if isinstance(image, str) else image
    return ENDINGS if given is None else tuple(text.lower().removeprefix(".") for text in given)


def _where(shards: str | Path | Sequence[str]) -> str:
    """What messages call them."""
    return f"'{shown(shards)}'" if isinstance(shards, (str, Path)) else "the list"


def _choose(shards: list[str], split: str, held_out: int) -> list[str]:
    check_choice("shards", "split", split, ("all", "train", "validation"))
    if split == "all" or held_out == 0:
        return shards
    if not 1 <= held_out < len(shards):
        raise DataError(
            f"validation_shards={held_out} of {len(shards)} shards: hold out one or more and leave "
            "at least one, or set it to 0 and name other shards for validation"
        )
    return shards[:-held_out] if split == "train" else shards[-held_out:]
