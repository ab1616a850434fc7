"""What the data sets over folders share: one split of the files, read by index, and its draws."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from ldm.data.folder_listing import choose_split
from ldm.data.image_files import read_size
from ldm.data.readable_items import ReadableItems
from ldm.data.skips import Skips
from ldm.data.transforms import Framing, Uniform
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
    """Files of a folder, read when asked for; see ``ldm.data.readable_items``.

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
