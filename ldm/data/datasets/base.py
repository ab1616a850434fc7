"""Images of any source, framed: what folders of images and the published data sets share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from PIL import Image
from torch.utils.data import Dataset

from ldm.data.captions import Tokenizer
from ldm.data.framing import Enlargement, Framing, to_tensor
from ldm.data.image_io import Reading, as_reading, reading_as
from ldm.data.items import ReadableItems, Skips, Uniform
from ldm.errors import DataError


class ImageSource(Protocol):
    """Where images come from: a folder, a list of files, an archive, a database.

    Besides, it may have ``classes``, the names of the classes by id, and ``what``, which messages
    call the whole; else that is the name of its class.
    """

    def __len__(self) -> int:
        """Number of images."""
        ...

    def name(self, index: int) -> str:
        """What messages call an image."""
        ...

    def read(self, index: int, at_least: int | None) -> tuple[Image.Image, tuple[int, int]]:
        """An image and its stored (width, height); see ``ldm.data.image_io.read_image``."""
        ...

    def entries(self, index: int, uniform: Uniform) -> dict[str, Any]:
        """What is known of it: ``class_label`` int, ``caption`` str; ``uniform`` gives draws."""
        ...


class FramedImages(Dataset[dict[str, Any]]):
    """Images of a source, resized, cropped and perhaps mirrored.

    Each item is a dict of ``image`` float (C, H, W) in [-1, 1], what the source knows of it, and
    with a tokenizer ``tokens`` long (L,). Crops, flips and choices depend on (seed, epoch, index).

    Args:
        source: where the images come from.
        framing: how they are framed.
        seed: seed of the random crops, flips and choices.
        broken: what an unreadable image does: skip = warn once per image (and worker) and take
            the next readable one instead, error = raise.
        small: what an image below the crop does: upscale = enlarge it, with one warning, or
            error = raise.
        antialias: False, with bilinear interpolation: the resizer of OpenCV and albumentations.
        tokenizer: maps a caption to a long tensor (L,) or (1, L).
        reading: what files of more than 8 bits, with colour profiles or of many pixels become: a
            ``ldm.data.Reading`` or a mapping of some of its names.

    Raises:
        DataError: the options do not fit together.
    """

    def __init__(
        self,
        source: ImageSource,
        framing: Framing,
        seed: int = 0,
        broken: str = "skip",
        small: str = "upscale",
        antialias: bool = True,
        tokenizer: Tokenizer | None = None,
        reading: Reading | Mapping[str, Any] | None = None,
    ) -> None:
        if not antialias and framing.interpolation != "bilinear":
            raise DataError(
                f"antialias=false goes with bilinear interpolation, not {framing.interpolation}"
            )
        self.source, self.framing, self.antialias = source, framing, antialias
        self.tokenizer, self.reading = tokenizer, as_reading(reading)
        self._enlargement = Enlargement(framing, small)
        what = getattr(source, "what", type(source).__name__)
        self._items = ReadableItems(what, len(source), self._read, broken, seed)

    @property
    def skips(self) -> Skips:
        """How often another image was taken in place of a broken one, over all workers."""
        return self._items.skips

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, if the source knows them."""
        return tuple(getattr(self.source, "classes", ()))

    def __len__(self) -> int:
        return len(self._items)

    def set_epoch(self, epoch: int) -> None:
        """Give the following items new random crops and flips, also in running workers."""
        self._items.set_epoch(epoch)

    def __getitem__(self, index: int) -> dict[str, Any]:
        used, (image, (width, height)) = self._items[index]
        self._enlargement.check(self.source.name(used), width, height)
        uniform = self._items.draws(index)
        framed = self.framing(image, uniform, self.antialias)
        entries = {"image": to_tensor(framed), **self.source.entries(used, uniform)}
        if self.tokenizer is not None:
            if "caption" not in entries:
                raise DataError(f"{type(self.source).__name__} has no captions to tokenise")
            entries["tokens"] = self.tokenizer(entries["caption"]).reshape(-1)
        return entries

    def _read(self, index: int) -> tuple[Image.Image, tuple[int, int]]:
        # What is reduced while it is decoded is anti-aliased.
        with reading_as(self.reading):
            return self.source.read(index, self.framing.needed if self.antialias else None)
