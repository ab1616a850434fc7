"""Images and what lies beside each of them: a label map, a mask, another picture; all cut alike.

A partner is found by the name of its image, with another ending, in a folder of its own or in the
same one; the case of the ending and the spelling of accents do not matter (``ldm.data.names``).
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ldm.data.datasets.lists import check_first, read_list
from ldm.data.framing import Cut, Enlargement, Framing, snap, take, to_tensor
from ldm.data.image_io import EXTENSIONS, Reading, as_reading, read_image, reading_as
from ldm.data.items import ReadableItems, Skips
from ldm.data.label_maps import check_label_map, read_label_map
from ldm.data.listing import Listing, image_endings, list_folder, split_files
from ldm.data.names import Folder, Names, stem
from ldm.errors import DataError
from ldm.files import shown

NO_CLASS = -1
Pair = tuple[Image.Image, dict[str, Image.Image]]
"""An image, and its partners by the name of their entries."""

_log = logging.getLogger(__name__)


class Partner(Protocol):
    """A file that belongs to an image, found by the name of the image."""

    root: Path
    factor: int
    """How many times smaller than the image it is."""

    def path(self, image: str) -> str:
        """Its path below ``root``, of that of an image."""
        ...

    def read(self, path: Path) -> Image.Image:
        """The file as something that can be cut; raises ``DataError``."""
        ...

    def tensor(self, partner: Image.Image, cut: Cut, size: tuple[int, int]) -> Tensor:
        """The entry of the batch: the part that a cut of the image names."""
        ...


class _Beside:
    """A file with the name of its image up to the ending."""

    factor = 1

    def __init__(self, root: str | Path, ending: str) -> None:
        self.root, self.ending = Path(root).expanduser(), ending

    def path(self, image: str) -> str:
        """Its path below ``root``."""
        return stem(image) + self.ending


class LabelMap(_Beside):
    """Class ids: long (H, W), -1 where there is no class; resized without mixing ids.

    Args:
        root: folder of the maps; see ``ldm.data.label_maps.read_label_map``.
        num_classes: number of classes.
        ending: what replaces the ending of the name of the image.
        offset: added to the stored ids.
        ignore: stored ids that mean "no class".
    """

    def __init__(
        self,
        root: str | Path,
        num_classes: int,
        ending: str = ".png",
        offset: int = 0,
        ignore: Sequence[int] = (255,),
    ) -> None:
        super().__init__(root, ending)
        self.num_classes, self.offset, self.ignore = num_classes, offset, tuple(ignore)

    def read(self, path: Path) -> Image.Image:
        """The ids, as an image of integers.

        Raises:
            DataError: the file is damaged or holds an id that is no class.
        """
        stored = read_label_map(path)
        known = torch.ones_like(stored, dtype=torch.bool)
        for other in self.ignore:
            known &= stored != other
        ids = torch.where(known, stored + self.offset, NO_CLASS)
        check_label_map(ids, self.num_classes, (NO_CLASS,), f"label map {path}")
        return Image.fromarray(ids.numpy().astype(np.int32))

    def tensor(self, partner: Image.Image, cut: Cut, size: tuple[int, int]) -> Tensor:
        """Long (H, W)."""
        ids = np.array(take(partner, cut, size, "nearest"))
        return torch.from_numpy(ids.astype(np.int64))


class Mask(_Beside):
    """A mask: float (1, H, W), 1 = hole, 0 = known.

    Args:
        root: folder of the masks, images that are white (1) where the hole is.
        ending: what replaces the ending of the name of the image.
        invert: black is the hole.
    """

    def __init__(self, root: str | Path, ending: str = ".png", invert: bool = False) -> None:
        super().__init__(root, ending)
        self.invert = invert

    def read(self, path: Path) -> Image.Image:
        """The mask in grey; raises ``DataError``."""
        return read_image(path, mode="L")[0]

    def tensor(self, partner: Image.Image, cut: Cut, size: tuple[int, int]) -> Tensor:
        """Float (1, H, W) of 0 and 1."""
        white = to_tensor(take(partner, cut, size, "nearest")) >= 0
        return (white != self.invert).float()


class Picture(_Beside):
    """Another image: float (3, H / factor, W / factor) in [-1, 1].

    Args:
        root: folder of the images.
        ending: what replaces the ending of the name of the image.
        factor: how many times smaller it is than the image, e.g. 4 for super-resolution.
        interpolation: how it is resized where the crop asks for it.

    Raises:
        DataError: ``factor`` is below 1.
    """

    def __init__(
        self,
        root: str | Path,
        ending: str = ".png",
        factor: int = 1,
        interpolation: str = "bicubic",
    ) -> None:
        if factor < 1:
            raise DataError(f"factor {factor} of a paired picture must be at least 1")
        super().__init__(root, ending)
        self.factor, self.interpolation = factor, interpolation

    def read(self, path: Path) -> Image.Image:
        """The image; raises ``DataError``."""
        return read_image(path)[0]

    def tensor(self, partner: Image.Image, cut: Cut, size: tuple[int, int]) -> Tensor:
        """Float (3, H / factor, W / factor) in [-1, 1]."""
        part = take(partner, cut, size, self.interpolation, factor=self.factor)
        return to_tensor(part)


class PairedFolder(Dataset[dict[str, Any]]):
    """Images and their partners, cut alike.

    Each item is a dict of ``image`` float (3, H, W) in [-1, 1] and an entry for each partner, of
    the same part of the image; with a ``Mask`` under the name ``mask`` also ``masked_image``, the
    image with -1 in the hole. A pair that cannot be read, whose sizes do not go together or whose
    map has an unknown id is passed over like a broken image. Images without a partner are left
    out, with a warning that counts them.

    Args:
        root: folder of the images and its sub-folders.
        partners: by the name of the entry, where the partners lie; see ``ldm.data.paired``.
        framing: how image and partners are framed.
        files: a text file with the path of an image below ``root`` on each line; None: all.
        split: train, validation or all; see ``ldm.data.listing.choose_split``.
        validation_fraction: share of the files that are held out for validation.
        seed: of the split, the random crops and flips.
        broken: what an unreadable pair does: skip = warn once per pair (and worker) and take the
            next readable one instead, error = raise.
        small: what an image below the crop does: upscale = enlarge it, with one warning, or
            error = raise.
        extensions: further endings of images; see ``ldm.data.listing.image_endings``.
        reading: of images and ``Picture`` partners; see ``ldm.data.FramedImages``.

    Attributes:
        files: paths of the images of this split below ``root``, as POSIX paths.
        left_out: how many files of the folder of images are no part of it, by reason.

    Raises:
        DataError: a folder is missing or empty, no image has all partners, or the size is no
            multiple of a factor.
    """

    def __init__(
        self,
        root: str | Path,
        partners: Mapping[str, Partner],
        framing: Framing,
        files: str | Path | None = None,
        split: str = "all",
        validation_fraction: float = 0.05,
        seed: int = 0,
        broken: str = "skip",
        small: str = "upscale",
        extensions: Sequence[str] | str | None = None,
        reading: Reading | Mapping[str, Any] | None = None,
    ) -> None:
        self.root = Path(root).expanduser()
        self.reading = as_reading(reading)
        self.partners, self.framing = dict(partners), framing
        self.left_out: dict[str, int] = {}
        self._endings, self._folder = image_endings(extensions), Folder(self.root)
        self._listings: dict[str, Listing] = {}
        self._found: dict[str, dict[str, str]] = {}
        self._factor = math.lcm(*(partner.factor for partner in self.partners.values()))
        if framing.height % self._factor or framing.width % self._factor:
            raise DataError(
                f"paired folder '{shown(self.root)}': size {framing.height} x {framing.width} is "
                f"no multiple of the factor {self._factor} of its partners"
            )
        self._enlargement = Enlargement(framing, small)
        found = self._complete(self._images(files))
        self.files = split_files(self.root, found, split, validation_fraction, seed)
        what = f"paired folder '{shown(self.root)}'"
        self._items = ReadableItems(what, len(self.files), self._read, broken, seed)

    @property
    def skips(self) -> Skips:
        """How often another pair was taken in place of a broken one, over all workers."""
        return self._items.skips

    def __len__(self) -> int:
        return len(self.files)

    def set_epoch(self, epoch: int) -> None:
        """Give the following items new random crops and flips, also in running workers."""
        self._items.set_epoch(epoch)

    def __getitem__(self, index: int) -> dict[str, Any]:
        used, (image, others) = self._items[index]
        framing, size = self.framing, (self.framing.height, self.framing.width)
        self._enlargement.check(shown(self.root / self.files[used]), *image.size)
        cut = snap(framing.cut(*image.size, self._items.draws(index)), self._factor)
        entries: dict[str, Any] = {
            "image": to_tensor(take(image, cut, size, framing.interpolation))
        }
        for key, other in others.items():
            entries[key] = self.partners[key].tensor(other, cut, size)
        if isinstance(self.partners.get("mask"), Mask):
            entries["masked_image"] = entries["image"].masked_fill(entries["mask"] == 1, -1)
        return entries

    def _images(self, files: str | Path | None) -> list[str]:
        if files is not None:
            listed = [line.lstrip("/") for _, line in read_list(files)]
            check_first(self.root, listed, f"list '{shown(files)}'")
            return listed
        listing = self._list(self.root, "image")
        self.left_out = listing.left_out
        found = [image for image in listing.images if _ending(image) in self._endings]
        theirs: set[str] = set()
        for key, partner in self.partners.items():
            if _same(partner.root, self.root):
                theirs.update(self._partners_of(found, key).values())
        return [image for image in found if image not in theirs]

    def _complete(self, images: list[str]) -> list[str]:
        """Those that have all partners."""
        whole = images
        for key, partner in self.partners.items():
            self._found[key] = self._partners_of(images, key)
            missing = [image for image in images if image not in self._found[key]]
            if not missing:
                continue
            lacked = shown(partner.root / partner.path(missing[0]))
            message = (
                f"{len(missing)} of {len(images)} images in '{shown(self.root)}' have no {key}; "
                f"the first lacks '{lacked}'"
            )
            if len(missing) == len(images):
                raise DataError(f"{message}: names must be the same up to the ending")
            _log.warning("%s: they are left out", message)
            lacking = set(missing)
            whole = [image for image in whole if image not in lacking]
        return whole

    def _partners_of(self, images: list[str], key: str) -> dict[str, str]:
        """Paths of the partners that there are, by image."""
        partner = self.partners[key]
        wanted = {image: partner.path(image) for image in images}
        names = Names(self._list(partner.root, key).images, f"{key} folder '{shown(partner.root)}'")
        begins = ((stem(image), stem(name), name) for image, name in wanted.items())
        meant = names.match(
            (begin, name[len(begin) :]) if name.startswith(begin) else (own, name[len(own) :])
            for begin, own, name in begins
        )
        return {image: meant[name] for image, name in wanted.items() if name in meant}

    def _list(self, root: Path, what: str) -> Listing:
        """What a folder holds for the images and the partners that lie there."""
        place = os.path.realpath(root)
        if place not in self._listings:
            here = [partner for partner in self.partners.values() if _same(partner.root, root)]
            endings = {_ending(partner.path("image.png")): None for partner in here}
            known = self._endings if _same(root, self.root) else EXTENSIONS
            found = dict.fromkeys((*known, ".npy")) if here else dict.fromkeys(known)
            option = "extensions" if _same(root, self.root) else ""
            self._listings[place] = list_folder(root, tuple(found | endings), what, option)
        return self._listings[place]

    def _read(self, index: int) -> Pair:
        file = self.files[index]
        with reading_as(self.reading):
            image = read_image(self._folder.path(file))[0]
            others = {key: self._read_partner(key, file, image.size) for key in self.partners}
        return image, others

    def _read_partner(self, key: str, file: str, size: tuple[int, int]) -> Image.Image:
        partner = self.partners[key]
        path = partner.root / self._found[key][file]
        other = partner.read(path)
        if other.size != tuple(side // partner.factor for side in size):
            times = f" / {partner.factor}" if partner.factor > 1 else ""
            raise DataError(
                f"'{shown(path)}' has {other.width} x {other.height} pixels, its image "
                f"'{shown(file)}' "
                f"{size[0]} x {size[1]}{times}: make them match or remove both"
            )
        return other


def _ending(file: str) -> str:
    return PurePosixPath(file).suffix.lower()


def _same(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)
