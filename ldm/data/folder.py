"""A plain folder of images as a data set."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ldm.data.folder_captions import MODES as CAPTION_MODES
from ldm.data.folder_captions import choose_caption, find_captions, read_text
from ldm.data.folder_items import Enlargement, FolderItems, check_choice, large_enough, split_files
from ldm.data.folder_listing import find_classes, list_folder
from ldm.data.image_files import MODES, read_image
from ldm.data.readable_items import EMPTY_CAPTION
from ldm.data.skips import Skips
from ldm.data.transforms import Framing, to_tensor
from ldm.errors import DataError

LEAVE_OUT = "leave_out"
Tokenizer = Callable[[str], Tensor]


class ImageFolder(Dataset[dict[str, Any]]):
    """Images of a folder and its sub-folders (jpg, jpeg, png, webp), resized and cropped.

    Each item is a dict of ``image`` float (C, H, W) in [-1, 1] and, where the folder has them,
    ``caption`` str, ``tokens`` long (L,) and ``class_label`` int (index into ``classes``).

    Every stored mode is converted to ``mode`` (``ldm.data.image_files``) and EXIF rotation is
    applied. The random crop and flip depend on (seed, epoch, index) only, so a resumed run repeats
    them with any number of workers: call ``set_epoch`` before each epoch, else every epoch sees
    the same. Images with other channels than these: ``ldm.data.array_folder``.

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
            largest crop; see ``ldm.data.transforms.Framing``.
        interpolation: nearest, area, bilinear, bicubic or lanczos.
        flip: probability of a horizontal mirror image.
        captions: txt (beside the image), metadata (metadata.jsonl), json (captions.json), csv
            (captions.csv), none, or auto; see ``ldm.data.folder_captions``. Where an image has
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
