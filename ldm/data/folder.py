"""A plain folder of images as a data set.

What the data sets over folders share: one split of the files, read by index, and its draws.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ldm.data.captions import MODES as CAPTION_MODES
from ldm.data.captions import choose_caption, find_captions, read_text
from ldm.data.framing import Framing, Uniform, to_tensor
from ldm.data.image_io import MODES, read_image, read_size
from ldm.data.items import EMPTY_CAPTION, ReadableItems, Skips
from ldm.data.listing import choose_split, find_classes, list_folder
from ldm.errors import DataError

T = TypeVar("T")

_log = logging.getLogger(__name__)


def check_choice(name: str, value: str, known: Sequence[str]) -> None:
    """Refuse the value of an option that is not a known one."""
    if value not in known:
        raise DataError(f"folder: {name} '{value}' is not one of {', '.join(known)}")


def split_files(
    root: Path, files: Sequence[str], split: str, fraction: float, seed: int
) -> list[str]:
    """The files of a split; see ``folder_listing.choose_split``.

    Raises:
        DataError: the split is unknown or empty.
    """
    check_choice("split", split, ("train", "validation", "all"))
    if not 0 <= fraction < 1:
        raise DataError(f"validation_fraction {fraction} is not within 0 to 1")
    chosen = choose_split(files, split, fraction, seed)
    if not chosen:
        raise DataError(
            f"folder '{root}': the {split} split of {len(files)} images is empty at "
            f"validation_fraction={fraction}: add images or set split=all"
        )
    return [files[i] for i in chosen]


def large_enough(root: Path, files: Sequence[str], framing: Framing) -> list[str]:
    """The files whose images need not be enlarged to cover a crop; the head of each is read.

    What is no image is kept: it is reported like any other that cannot be read.

    Raises:
        DataError: there is none.
    """
    sizes = (read_size(root / file) for file in files)
    kept = [
        file
        for file, size in zip(files, sizes, strict=True)
        if size is None or framing.scale(*size) <= 1
    ]
    crop = f"{framing.height} x {framing.width} pixels"
    if not kept:
        raise DataError(f"all {len(files)} images in '{root}' are smaller than {crop}")
    if len(kept) < len(files):
        number = len(files) - len(kept)
        _log.warning(
            "%d of %d images in '%s' are smaller than %s and are left out",
            *(number, len(files), root, crop),
        )
    return kept


class FolderItems(Generic[T]):
    """Files of a folder, read when asked for; see ``ldm.data.items``.

    Args:
        root: the folder.
        files: paths below it.
        read: reads one; raises ``DataError`` if it cannot.
        broken: what an unreadable file does: skip = warn once per file (and worker) and take the
            next readable one instead, error = raise.
        seed: seed of the draws.
    """

    def __init__(
        self, root: Path, files: Sequence[str], read: Callable[[Path], T], broken: str, seed: int
    ) -> None:
        self.root, self.files = root, list(files)
        self._read_file = read
        self._items = ReadableItems(f"folder '{root}'", len(self.files), self._read, broken, seed)

    def __len__(self) -> int:
        return len(self.files)

    @property
    def broken_files(self) -> set[str]:
        """Files that could not be read so far, in this process."""
        return {self.files[index] for index in self._items.broken}

    @property
    def skips(self) -> Skips:
        """How often another file was taken instead, over all workers."""
        return self._items.skips

    def set_epoch(self, epoch: int) -> None:
        """Give the items new draws, also in running workers."""
        self._items.set_epoch(epoch)

    def draws(self, index: int) -> Uniform:
        """Source of random numbers in [0, 1) for an item."""
        return self._items.draws(index)

    def __getitem__(self, index: int) -> tuple[str, T]:
        """The file at ``index`` or, if it is broken, the next readable one, and its content."""
        used, value = self._items[index]
        return self.files[used], value

    def _read(self, index: int) -> T:
        return self._read_file(self.root / self.files[index])


class Enlargement:
    """What happens to an image that is smaller than its crop.

    Args:
        framing: the crop.
        policy: upscale = enlarge it, with one warning, or error = raise.
    """

    def __init__(self, framing: Framing, policy: str) -> None:
        check_choice("small", policy, ("upscale", "error"))
        self._framing, self._policy = framing, policy
        self._warned = False

    def check(self, path: Path, width: int, height: int) -> None:
        """Warn of an image of this size, or refuse it, if it must be enlarged."""
        scale = self._framing.scale(width, height)
        if scale <= 1:
            return
        message = (
            f"image '{path}' of {width} x {height} pixels is smaller than the crop and must be "
            f"enlarged {scale:.2f} times"
        )
        if self._policy == "error":
            raise DataError(f"{message}: remove it, lower size or set small=upscale")
        if not self._warned:
            self._warned = True
            _log.warning("%s; further ones are enlarged without a word", message)


LEAVE_OUT = "leave_out"
Tokenizer = Callable[[str], Tensor]


class ImageFolder(Dataset[dict[str, Any]]):
    """Images of a folder and its sub-folders (jpg, jpeg, png, webp), resized and cropped.

    Each item is a dict of ``image`` float (C, H, W) in [-1, 1] and, where the folder has them,
    ``caption`` str, ``tokens`` long (L,) and ``class_label`` int (index into ``classes``).

    Every stored mode is converted to ``mode`` (``ldm.data.image_io``) and EXIF rotation is
    applied. The random crop and flip depend on (seed, epoch, index) only, so a resumed run repeats
    them with any number of workers: call ``set_epoch`` before each epoch, else every epoch sees
    the same. Images with other channels than these: ``ldm.data.arrays``.

    Args:
        root: the folder.
        size: side of the square result or (height, width), in pixels.
        split: train, validation or all. See ``folder_listing.choose_split``: adding files to
            the folder does not reshuffle the others.
        validation_fraction: share of the files that are held out for validation.
        seed: seed of split, crop and flip.
        mode: RGB (C = 3); L (C = 1), grey, in which 16-bit files keep their precision; or RGBA
            (C = 4), with alpha from -1 (clear) to 1 (opaque), in 8 bits.
        resize: shorter side before the crop; None = the smallest that covers the crop; "keep" =
            the image's own.
        crop: center or random.
        crop_scale: bounds of the side of a random crop before it is resized, relative to the
            largest crop; see ``ldm.data.Framing``.
        interpolation: nearest, area, bilinear, bicubic or lanczos.
        flip: probability of a horizontal mirror image.
        captions: txt (beside the image), metadata (metadata.jsonl), json (captions.json), csv
            (captions.csv), none, or auto; see ``ldm.data.captions``. Where an image has
            several, each epoch draws one.
        classes: folder (first-level sub-folders, sorted), none, or auto.
        num_classes: how many classes there must be; None accepts any number.
        broken: what an unreadable image does: skip = warn once per file (and worker) and take
            the next readable one instead, error = raise.
        small: what an image below the crop does: upscale = enlarge it, with one warning; error =
            raise; or leave_out = it is no part of the set, for which the head of every file is read
            at the start.
        tokenizer: maps a caption to a long tensor (L,) or (1, L).

    Raises:
        DataError: the folder is missing, empty or lacks what the options ask for.
    """

    def __init__(
        self,
        root: str | Path,
        size: int | Sequence[int],
        split: str = "train",
        validation_fraction: float = 0.05,
        seed: int = 0,
        mode: str = "RGB",
        resize: int | str | None = None,
        crop: str = "center",
        crop_scale: Sequence[float] | None = None,
        interpolation: str = "bicubic",
        flip: float = 0.0,
        captions: str = "auto",
        classes: str = "auto",
        num_classes: int | None = None,
        broken: str = "skip",
        small: str = "upscale",
        tokenizer: Tokenizer | None = None,
    ) -> None:
        check_choice("mode", mode, MODES)
        check_choice("captions", captions, CAPTION_MODES)
        self.root = Path(root).expanduser()
        self.tokenizer = tokenizer
        height, width = (size, size) if isinstance(size, int) else size
        try:
            self.framing = Framing(height, width, resize, crop, flip, crop_scale, interpolation)
        except ValueError as error:
            raise DataError(f"image folder '{self.root}': {error}") from None
        check_choice("small", small, ("upscale", "error", LEAVE_OUT))
        self._enlargement = Enlargement(self.framing, "upscale" if small == LEAVE_OUT else small)
        listing = list_folder(self.root)
        files = split_files(self.root, listing.images, split, validation_fraction, seed)
        if small == LEAVE_OUT:
            files = large_enough(self.root, files, self.framing)
        self._read = functools.partial(read_image, at_least=self.framing.needed, mode=mode)
        self.classes = find_classes(self.root, listing.images, classes, num_classes)
        self.captions = find_captions(self.root, listing, captions)
        if tokenizer is not None and self.captions is None:
            raise DataError(
                f"image folder '{self.root}' has no captions to tokenise: write a .txt file beside "
                "each image or a metadata.jsonl"
            )
        self._items = FolderItems(self.root, files, self._read_file, broken, seed)
        self._class_ids = {name: i for i, name in enumerate(self.classes)}

    @property
    def files(self) -> list[str]:
        """Paths of the images of this split below ``root``, as POSIX paths."""
        return self._items.files

    @property
    def broken_files(self) -> set[str]:
        """Those that could not be read so far."""
        return self._items.broken_files

    @property
    def skips(self) -> Skips:
        """Images that another one replaced, and empty captions, over all workers."""
        return self._items.skips

    def __len__(self) -> int:
        return len(self._items)

    def set_epoch(self, epoch: int) -> None:
        """Give the following items new random crops and flips, also in running workers."""
        self._items.set_epoch(epoch)

    def __getitem__(self, index: int) -> dict[str, Any]:
        file, (image, size, captions) = self._items[index]
        self._enlargement.check(self.root / file, *size)
        uniform = self._items.draws(index)
        entries: dict[str, Any] = {"image": to_tensor(self.framing(image, uniform))}
        if self.classes:
            entries["class_label"] = self._class_ids[file.split("/", 1)[0]]
        if self.captions is not None:
            caption = choose_caption(captions, uniform)
            if not caption and file in self.captions:
                self.skips.add(EMPTY_CAPTION, f"the caption of '{self.root / file}' is empty")
            entries["caption"] = caption
            if self.tokenizer is not None:
                entries["tokens"] = self.tokenizer(entries["caption"]).reshape(-1)
        return entries

    def _read_file(self, path: Path) -> tuple[Image.Image, tuple[int, int], Sequence[str]]:
        """Image, size and captions of a file."""
        image, size = self._read(path)
        found = (self.captions or {}).get(path.relative_to(self.root).as_posix(), ("",))
        return image, size, (read_text(found),) if isinstance(found, Path) else found
