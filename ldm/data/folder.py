"""A plain folder of images as a data set."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ldm.data.folder_listing import (
    choose_split,
    find_captions,
    find_classes,
    list_folder,
    read_text,
)
from ldm.data.image_files import read_image
from ldm.data.transforms import Framing, to_tensor
from ldm.errors import DataError

Tokenizer = Callable[[str], Tensor]

_log = logging.getLogger(__name__)


class ImageFolder(Dataset[dict[str, Any]]):
    """Images of a folder and its sub-folders (jpg, jpeg, png, webp), resized and cropped.

    Each item is a dict of ``image`` float (3, H, W) in [-1, 1] and, where the folder has them,
    ``caption`` str, ``tokens`` long (L,) and ``class_label`` int (index into ``classes``).

    Every mode is converted to RGB (``ldm.data.image_files``) and EXIF rotation is applied. The
    random crop and flip depend on (seed, epoch, index) only, so a resumed run repeats them with
    any number of workers: call ``set_epoch`` before each epoch, else every epoch sees the same.

    Args:
        root: the folder.
        size: side of the square result or (height, width), in pixels.
        split: train, validation or all. See ``folder_listing.choose_split``: adding files to
            the folder does not reshuffle the others.
        validation_fraction: share of the files that are held out for validation.
        seed: seed of split, crop and flip.
        resize: shorter side before the crop; None = the smallest that covers the crop.
        crop: center or random.
        flip: probability of a horizontal mirror image.
        captions: txt (beside the image), metadata (metadata.jsonl with file_name and text or
            caption), none, or auto.
        classes: folder (first-level sub-folders, sorted), none, or auto.
        num_classes: how many classes there must be; None accepts any number.
        broken: what an unreadable image does: skip = warn once per file (and worker) and take
            the next readable one instead, error = raise.
        small: what an image below the crop does: upscale = enlarge it, with one warning, or
            error = raise.
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
        resize: int | None = None,
        crop: str = "center",
        flip: float = 0.0,
        captions: str = "auto",
        classes: str = "auto",
        num_classes: int | None = None,
        broken: str = "skip",
        small: str = "upscale",
        tokenizer: Tokenizer | None = None,
    ) -> None:
        _check_choice("split", split, ("train", "validation", "all"))
        _check_choice("captions", captions, ("auto", "txt", "metadata", "none"))
        _check_choice("classes", classes, ("auto", "folder", "none"))
        _check_choice("broken", broken, ("skip", "error"))
        _check_choice("small", small, ("upscale", "error"))
        if not 0 <= validation_fraction < 1:
            raise DataError(f"validation_fraction {validation_fraction} is not within 0 to 1")
        self.root = Path(root).expanduser()
        self.seed, self.broken, self.small = seed, broken, small
        self.tokenizer = tokenizer
        height, width = (size, size) if isinstance(size, int) else size
        try:
            self.framing = Framing(height, width, resize, crop, flip)
        except ValueError as error:
            raise DataError(f"image folder '{self.root}': {error}") from None
        listing = list_folder(self.root)
        chosen = choose_split(listing.images, split, validation_fraction, seed)
        if not chosen:
            raise DataError(
                f"image folder '{self.root}': the {split} split of {len(listing.images)} images is "
                f"empty at validation_fraction={validation_fraction}: add images or set split=all"
            )
        self.files = [listing.images[i] for i in chosen]
        self.classes = find_classes(self.root, listing.images, classes)
        if num_classes is not None and len(self.classes) != num_classes:
            raise DataError(
                f"image folder '{self.root}' has {len(self.classes)} class folders, but "
                f"num_classes says {num_classes}"
            )
        self.captions = find_captions(self.root, listing, captions)
        if tokenizer is not None and self.captions is None:
            raise DataError(
                f"image folder '{self.root}' has no captions to tokenise: write a .txt file beside "
                "each image or a metadata.jsonl"
            )
        self.broken_files: set[str] = set()
        self._class_ids = {name: i for i, name in enumerate(self.classes)}
        self._warned_small = False
        # In shared memory, so that workers that outlive an epoch see the change.
        self._epoch = torch.zeros((), dtype=torch.int64, device="cpu").share_memory_()

    def __len__(self) -> int:
        return len(self.files)

    def set_epoch(self, epoch: int) -> None:
        """Give the following items new random crops and flips, also in running workers."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self.files):
            raise IndexError(f"image {index} of a set of {len(self.files)}")
        file, image = self._read_next(index)
        rng = np.random.default_rng((self.seed, int(self._epoch), index))
        entries: dict[str, Any] = {"image": to_tensor(self.framing(image, rng.random))}
        if self.classes:
            entries["class_label"] = self._class_ids[file.split("/", 1)[0]]
        if self.captions is not None:
            caption = self.captions.get(file, "")
            entries["caption"] = read_text(caption) if isinstance(caption, Path) else caption
            if self.tokenizer is not None:
                entries["tokens"] = self.tokenizer(entries["caption"]).reshape(-1)
        return entries

    def _read_next(self, index: int) -> tuple[str, Image.Image]:
        """The image at ``index`` or, if it is broken, the next readable one, and its file."""
        for step in range(len(self.files)):
            file = self.files[(index + step) % len(self.files)]
            if file in self.broken_files:
                continue
            framing = self.framing
            try:
                needed = framing.resize or max(framing.height, framing.width)
                image, size = read_image(self.root / file, needed)
            except DataError as error:
                if self.broken == "error":
                    raise
                self.broken_files.add(file)
                _log.warning(
                    "%s; the next image is used instead (%d so far)", error, len(self.broken_files)
                )
                continue
            self._check_size(file, size)
            return file, image
        raise DataError(
            f"image folder '{self.root}': not one of {len(self.files)} images is readable"
        )

    def _check_size(self, file: str, size: tuple[int, int]) -> None:
        scale = self.framing.scale(*size)
        if scale <= 1:
            return
        message = (
            f"image '{self.root / file}' of {size[0]} x {size[1]} pixels is smaller than the crop "
            f"and must be enlarged {scale:.2f} times"
        )
        if self.small == "error":
            raise DataError(f"{message}: remove it, lower size or set small=upscale")
        if not self._warned_small:
            self._warned_small = True
            _log.warning("%s; further ones are enlarged without a word", message)


def _check_choice(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise DataError(f"image folder: {name} '{value}' is not one of {', '.join(known)}")
