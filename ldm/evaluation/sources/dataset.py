"""The images of a data set as training sees them, made 8-bit."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import asdict, is_dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.utils.data import IterableDataset

from ldm.config import instantiate, load_config, to_yaml
from ldm.config.trust import lies_beside_weights, mark_foreign
from ldm.data.items import EMPTY_CAPTION, Skips
from ldm.data.shards.dataset import DAMAGED
from ldm.data.shards.decoding import NO_IMAGE, UNREADABLE
from ldm.errors import DataError, UserError
from ldm.evaluation.networks.resizing import to_uint8
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
)
from ldm.experiment import with_images
from ldm.places import split_name

ROUNDING = "float in [-1, 1] to uint8: (x + 1) * 127.5, to the nearest whole number"
TRUNCATION = "float in [-1, 1] to uint8: (x + 1) * 127.5, without the fraction"
SPLITS = ("validation", "train")
RUN_CONFIG = "config.yaml"
"""The config of a run, which is found by way of the run's samples too."""

_OVERSHOOT = 1.01
"""Interpolation may leave [-1, 1] by a little; images in [0, 255] leave it by far."""


class DatasetSource(ReadSource):
    """Items with ``image`` float (1 or 3, H, W) in [-1, 1], ``class_label`` and ``caption``.

    An item in whose place the data set shows another one, since its own file is unreadable, is
    unreadable here. The hash is of the 8-bit pixels; it needs a pass over the data set, but comes
    for free with a complete pass that one process made before.

    Args:
        dataset: map-style, or a stream with a length (of which a share of one process is all).
        where: what messages and reports call it.
        num: use the first so many.
        skip_corrupt: leave out what cannot be read.
        recipe: all that decides what the data set is, such as its YAML; entry of the cache.
        cache: remembers the hash, of data sets with ``root`` and ``files``.

    Raises:
        UserError: it has no length, or fewer items than ``num``.
    """

    def __init__(
        self,
        dataset: Any,
        where: str,
        num: int | None = None,
        skip_corrupt: bool = False,
        recipe: str = "",
        cache: ContentCache | None = None,
    ) -> None:
        if not isinstance(dataset, Sized):
            raise UserError(f"'{where}': a {type(dataset).__name__} has no length: set its size")
        self._available = len(dataset)
        if not self._available:
            raise UserError(f"'{where}' holds no images")
        super().__init__(where, first_of(self._available, num, where), skip_corrupt)
        self.dataset: Any = dataset
        self._recipe = recipe
        self._cache = cache or ContentCache()
        self._content: Content | None = None
        self._captioned = False

    def _items(self, rank: int, processes: int) -> Iterator[Item | Unreadable]:
        counter, labels = ContentCounter(), list[int]()
        for item in self._read(rank, processes):
            counter.add(_head(item))
            if isinstance(item, Item):
                labels += [] if item.label is None else [item.label]
                self._captioned |= item.caption is not None
            yield item
        if processes == 1:
            self._content = counter.content(labels or None)

    def _read(self, rank: int, processes: int) -> Iterator[Item | Unreadable]:
        if not isinstance(self.dataset, IterableDataset):
            return (self._indexed(index) for index in range(rank, len(self), processes))
        if processes > 1:
            raise UserError(
                f"'{self.where}' is a stream, which several processes cannot share item by item: "
                "use one process, or name its shards (FOLDER/*.tar) instead of the data set"
            )
        return self._streamed(self.dataset)

    def _indexed(self, index: int) -> Item | Unreadable:
        before = _counts(self.dataset)
        try:
            entries = self.dataset[index]
        except DataError as error:
            return Unreadable(self._name(index), str(error))
        changed = [k for k, n in _counts(self.dataset).items() if n > before[k]]
        reasons = [reason for reason in changed if reason != EMPTY_CAPTION]
        if reasons:
            return Unreadable(self._name(index), reasons[0])
        return _item(index, entries, self.where)

    def _streamed(self, stream: Iterable[Any]) -> Iterator[Item | Unreadable]:
        before = _counts(stream)
        for index, entries in enumerate(islice(stream, len(self))):
            yield _item(index, entries, self.where)
        after = _counts(stream)
        for reason in (UNREADABLE, NO_IMAGE, DAMAGED):
            count = after[reason] - before[reason]
            if count:
                name = f"{count} samples of {self.where}, in whose place others were shown again"
                yield Unreadable(name, reason)

    def _name(self, index: int) -> str:
        files = getattr(self.dataset, "files", None)
        return str(files[index]) if files is not None else f"item {index}"

    def _info(self) -> SourceInfo:
        if self._content is None:
            self._content = self._remembered()
        content = self._content
        framing = getattr(self.dataset, "framing", None)
        return self._describe(
            "dataset",
            content,
            self._available,
            content.labels,
            self._captioned,
            rounding=ROUNDING,
            dataset=type(self.dataset).__name__,
            root=str(getattr(self.dataset, "root", "")),
            framing=asdict(framing) if is_dataclass(framing) else None,  # type: ignore[arg-type]
        )

    def _remembered(self) -> Content:
        root, files = (getattr(self.dataset, name, None) for name in ("root", "files"))
        if root is None or files is None or not self._recipe:
            return self._scan()
        paths = [Path(root) / file for file in files[: len(self)]]
        return self._cache.content(f"{len(self)} {self._recipe}", paths, self._scan)

    def _scan(self) -> Content:
        for _ in self._items(0, 1):
            pass
        assert self._content is not None
        return self._content


def open_dataset(
    where: str,
    num: int | None = None,
    skip_corrupt: bool = False,
    cache: ContentCache | None = None,
    trust: bool = False,
) -> DatasetSource:
    """The data set that a YAML describes.

    Args:
        where: a file with a data node, ``DATA.yaml`` for its validation set or ``DATA.yaml#train``.
        num: use the first so many.
        skip_corrupt: leave out what cannot be read.
        cache: remembers the hash.
        trust: build whatever the file names, even if it is that of a run or lies beside weights.

    Raises:
        UserError: the file or the data set cannot be used.
    """
    file, split = split_name(where)
    node = with_images(load_config(file, complete=False))
    if Path(file).name == RUN_CONFIG or lies_beside_weights(Path(file)):
        mark_foreign(node, Path(file), trust)
    dataset = data_split(node, split or SPLITS[0], where)
    node = node.data if "data" in node else node
    recipe = f"{split or SPLITS[0]}\n{to_yaml(node, resolve=True)}"
    return DatasetSource(dataset, where, num, skip_corrupt, recipe, cache)


def data_split(node: DictConfig, split: str, where: str) -> Any:
    """One data set of a config, without the others, which may be large or absent.

    Args:
        node: an experiment, or its data node: a data module with ``validation`` and ``train``, or a
            data set, which is all there is.
        split: validation or train.
        where: what messages call it.

    Raises:
        UserError: there is no such data set.
    """
    if split not in SPLITS:
        raise UserError(f"'{where}': '{split}' is not one of {', '.join(SPLITS)}")
    node = node.data if "data" in node else node
    parts = node.get("params")
    if "target" in node and parts and OmegaConf.is_dict(parts.get(split)):
        return instantiate(parts[split])
    found = instantiate(node)
    if hasattr(found, split) and not hasattr(found, "__len__"):
        return getattr(found, split)
    if isinstance(found, Mapping) or not isinstance(found, Sized) or split != SPLITS[0]:
        raise UserError(
            f"'{where}' describes neither a data module with '{split}' nor, if nothing is asked "
            "for, a data set: give a node with target and params"
        )
    return found


def _item(index: int, entries: Any, where: str) -> Item:
    image = entries.get("image") if isinstance(entries, Mapping) else None
    name = f"item {index} of '{where}'"
    if not isinstance(image, Tensor) or image.ndim != 3 or len(image) not in (1, 3):
        raise UserError(f"{name} has no image of 1 or 3 channels")
    if not image.isfinite().all():
        raise UserError(f"{name} holds values that are not finite")
    if image.abs().max() > _OVERSHOOT:
        raise UserError(f"{name} has values up to {image.abs().max():.4g}, not in [-1, 1]")
    label, caption = entries.get("class_label"), entries.get("caption")
    label = None if label is None else int(label)
    return Item(index, to_uint8(image), label, caption if isinstance(caption, str) else None)


def _head(item: Item | Unreadable) -> Head:
    if isinstance(item, Unreadable):
        return Head(item.name, "", "unreadable")
    _, height, width = item.image.shape
    digest = hashlib.sha256(item.image.numpy().tobytes()).hexdigest()
    return Head(f"{height}x{width}", digest, "data set", "RGB", (height, width))


def _counts(dataset: Any) -> Counter[str]:
    """What the data set, and those that it wraps, have left out so far."""
    counts: Counter[str] = Counter()
    while dataset is not None:
        skips = getattr(dataset, "skips", None)
        if isinstance(skips, Skips):
            counts.update(skips.counts())
        wrapped = getattr(dataset, "images", None)
        dataset = getattr(dataset, "dataset", None) if wrapped is None else wrapped
    return counts
