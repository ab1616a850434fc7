"""The image files of a folder, nested or as the sampling scripts leave them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image
from torch import Tensor

from ldm.data.captions import Captions, find_captions, read_captions
from ldm.data.image_io import read_image
from ldm.data.listing import as_spelled, find_classes, list_folder
from ldm.errors import DataError, UserError
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
from ldm.evaluation.sources.record import check_files, has_record, read_record
from ldm.files import read_bytes, shown

DECODING = f"Pillow {PIL.__version__}, upright by EXIF, transparency laid over white"
SHOWN_CLASSES = 5


class FolderSource(ReadSource):
    """PNG, JPEG and WebP files below a folder.

    Where the folder has a samples.json of the sampling scripts, the images are those that it lists,
    in its order, with their prompts and labels (grid.png and the like do not count). Else they are
    all image files in the order of their paths; the first-level folders are classes, and captions
    are found as ``ldm.data.captions`` does.

    The hash is of relative paths and bytes of the files.

    Args:
        where: the folder.
        num: use the first so many.
        skip_corrupt: leave out what cannot be read.
        classes: auto, folder or none, see ``ldm.data.listing.find_classes``, or the names of
            the class folders by class id.
        cache: remembers the hash.

    Raises:
        DataError: the folder is missing or empty.
        UserError: there are fewer images than ``num``, listed ones are absent, or a class folder
            has none of the given names.
    """

    def __init__(
        self,
        where: str,
        num: int | None = None,
        skip_corrupt: bool = False,
        classes: str | Sequence[str] = "auto",
        cache: ContentCache | None = None,
    ) -> None:
        self.root = Path(os.path.expanduser(where))
        listed = _recorded(self.root) if has_record(self.root) else _found(self.root, classes)
        super().__init__(where, first_of(len(listed.files), num, where), skip_corrupt)
        self._listed, self._cache = listed, cache or ContentCache()

    def _items(self, rank: int, processes: int) -> Iterator[Item | Unreadable]:
        return read_ahead(self._item, range(rank, len(self), processes))

    def _item(self, index: int) -> Item | Unreadable:
        file = self._listed.files[index]
        try:
            image, _ = read_image(self.root / file)
        except DataError as error:
            return Unreadable(file, str(error.__cause__ or error))
        labels, captions = self._listed.labels, self._listed.captions
        caption = None if captions is None else _caption(captions.get(file, ("",)))
        return Item(index, pixels(image), None if labels is None else labels[index], caption)

    def _info(self) -> SourceInfo:
        used = self._listed.files[: len(self)]
        files = [self.root / file for file in used]
        content = self._cache.content("folder", files, lambda: self._scan(used))
        labels = None if self._listed.labels is None else self._listed.labels[: len(self)]
        captioned, record = self._listed.captions is not None, self._listed.record
        available = len(self._listed.files)
        return self._describe(
            "folder", content, available, labels, captioned, decoding=DECODING, **record
        )

    def _scan(self, files: Sequence[str]) -> Content:
        counter = ContentCounter()
        for head in read_ahead(self._head, files):
            counter.add(head)
        return counter.content()

    def _head(self, file: str) -> Head:
        try:
            return read_head(file, read_bytes(self.root / file))
        except OSError:
            return Head(file, "", "unreadable")


def pixels(image: Image.Image) -> Tensor:
    """An RGB image as uint8 (3, H, W)."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


@dataclass(frozen=True)
class _Listed:
    """Files with what is known about them; ``record``: entries of ``SourceInfo.about``."""

    files: list[str]
    labels: list[int] | None
    captions: Captions | None
    record: dict[str, Any]


def _found(root: Path, classes: str | Sequence[str]) -> _Listed:
    listing = list_folder(root)
    if not isinstance(classes, str):
        classes = as_spelled(classes, listing.images, root)
    names = _class_names(root, listing.images, classes)
    ids = {name: i for i, name in enumerate(names)}
    labels = [ids[file.split("/", 1)[0]] for file in listing.images] if names else None
    return _Listed(listing.images, labels, find_captions(root, listing, "auto"), {})


def _class_names(root: Path, images: Sequence[str], classes: str | Sequence[str]) -> Sequence[str]:
    if isinstance(classes, str):
        return find_classes(root, images, classes)
    unknown = sorted(set(find_classes(root, images, "folder")) - set(classes))
    if unknown:
        raise UserError(
            f"folder '{shown(root)}' has the class folder '{shown(unknown[0])}', which is not one "
            f"of the {len(classes)} classes {', '.join(classes[:SHOWN_CLASSES])}, ..."
        )
    return classes


def _recorded(root: Path) -> _Listed:
    """What ``samples.json`` lists, whose images must all be there."""
    record = read_record(root)
    check_files(root, record.files)
    captions: Captions | None = None
    if record.prompts is not None:
        pairs = zip(record.files, record.prompts, strict=True)
        captions = {file: (prompt,) for file, prompt in pairs}
    entries = {"settings": record.settings, "made_by": record.made_by}
    about = {name: value for name, value in entries.items() if value}
    return _Listed(record.files, record.labels, captions, about)


def _caption(found: Path | tuple[str, ...]) -> str:
    """The caption of an image; the first one, where there are several."""
    return read_captions(found)[0]
