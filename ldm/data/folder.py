"""A plain folder of images as a data set: the images, their captions, their classes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ldm.data.captions import MODES as CAPTION_MODES
from ldm.data.captions import Captions, Tokenizer, choose_caption, find_captions, read_captions
from ldm.data.datasets.base import FramedImages
from ldm.data.datasets.lists import FileSource
from ldm.data.framing import Framing, checked_framing
from ldm.data.image_io import MODES, Reading, read_image, read_size
from ldm.data.items import EMPTY_CAPTION, Skips, Uniform, check_choice
from ldm.data.listing import find_classes, image_endings, list_folder, split_files
from ldm.errors import DataError
from ldm.files import shown

LEAVE_OUT = "leave_out"

_log = logging.getLogger(__name__)


class ImageFolder(FramedImages):
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
        split: train, validation or all. See ``ldm.data.listing.choose_split``: adding files to
            the folder does not reshuffle the others.
        validation_fraction: share of the files that are held out for validation.
        seed: seed of split, crop, flip and choice of captions.
        mode: RGB (C = 3); L (C = 1), grey, in which 16-bit files keep their precision; or RGBA
            (C = 4), with alpha from -1 (clear) to 1 (opaque), in 8 bits.
        resize, crop, crop_scale, interpolation, flip: see ``ldm.data.Framing``.
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
        extensions: endings that count as images beside jpg, jpeg, png and webp, e.g. [bmp, tif], or
            all; see ``ldm.data.listing.image_endings``. Of an animation the first picture counts.
        reading: see ``ldm.data.FramedImages``.

    Attributes:
        files: paths of the images of this split below ``root``, as POSIX paths.
        left_out: how many files of the folder are no part of it, by reason.

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
        extensions: Sequence[str] | str | None = None,
        reading: Reading | Mapping[str, Any] | None = None,
    ) -> None:
        check_choice("folder", "mode", mode, MODES)
        check_choice("folder", "captions", captions, CAPTION_MODES)
        folder = Path(root).expanduser()
        framing = checked_framing(
            f"image folder '{shown(folder)}'",
            size,
            resize=resize,
            crop=crop,
            flip=flip,
            crop_scale=crop_scale,
            interpolation=interpolation,
        )
        check_choice("folder", "small", small, ("upscale", "error", LEAVE_OUT))
        listing = list_folder(folder, image_endings(extensions), option="extensions")
        files = split_files(folder, listing.images, split, validation_fraction, seed)
        if small == LEAVE_OUT:
            files, small = large_enough(folder, files, framing), "upscale"
        names = find_classes(folder, listing.images, classes, num_classes)
        texts = find_captions(folder, listing, captions)
        if tokenizer is not None and texts is None:
            raise DataError(
                f"image folder '{shown(folder)}' has no captions to tokenise: write a .txt "
                "file beside each image or a metadata.jsonl"
            )
        source = FolderImages(folder, files, mode, names, texts)
        super().__init__(source, framing, seed, broken, small, tokenizer=tokenizer, reading=reading)
        source.skips = self.skips
        self.root, self.files, self.left_out = source.root, source.files, listing.left_out

    @property
    def broken_files(self) -> set[str]:
        """Files that could not be read so far, in this process."""
        return {self.files[index] for index in self._items.broken}


class FolderImages(FileSource):
    """The images of a folder, their captions and classes: a source (``ldm.data.ImageSource``).

    Args:
        root: the folder.
        files: paths of images below it, as POSIX paths.
        mode: RGB, L or RGBA.
        classes: names of the first-level folders, if they are classes.
        captions: of each image, see ``ldm.data.captions``; None: there are none.

    Attributes:
        skips: where empty captions are counted; None: they are not.
    """

    def __init__(
        self,
        root: Path,
        files: Sequence[str],
        mode: str,
        classes: tuple[str, ...],
        captions: Captions | None,
    ) -> None:
        super().__init__(root, files)
        self.what = f"folder '{shown(root)}'"
        self.classes = classes
        self.skips: Skips | None = None
        self._mode, self._captions = mode, captions
        self._class_ids = {name: i for i, name in enumerate(classes)}
        self._latest: tuple[int, Sequence[str]] = (-1, ())

    def read(self, index: int, at_least: int | None) -> tuple[Image.Image, tuple[int, int]]:
        """The image and its stored size.

        Raises:
            DataError: the image, or the text file with its caption, cannot be read.
        """
        image, size = read_image(self.root / self.files[index], at_least, self._mode)
        self._latest = index, self._read_captions(index)
        return image, size

    def entries(self, index: int, uniform: Uniform) -> dict[str, Any]:
        """``class_label`` and ``caption``, if the folder has them."""
        entries: dict[str, Any] = {}
        if self.classes:
            entries["class_label"] = self._class_ids[self.files[index].split("/", 1)[0]]
        if self._captions is not None:
            latest, captions = self._latest
            captions = captions if latest == index else self._read_captions(index)
            entries["caption"] = choose_caption(captions, uniform)
            known = self.files[index] in self._captions
            if known and not entries["caption"] and self.skips is not None:
                self.skips.add(EMPTY_CAPTION, f"the caption of '{self.name(index)}' is empty")
        return entries

    def _read_captions(self, index: int) -> Sequence[str]:
        return read_captions((self._captions or {}).get(self.files[index], ("",)))


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
        raise DataError(f"all {len(files)} images in '{shown(root)}' are smaller than {crop}")
    if len(kept) < len(files):
        number = len(files) - len(kept)
        _log.warning(
            "%d of %d images in '%s' are smaller than %s and are left out",
            *(number, len(files), shown(root), crop),
        )
    return kept
