"""A folder of NumPy arrays as images with any number of channels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from numpy.lib.format import open_memmap
from torch import Tensor
from torch.utils.data import Dataset

from ldm.data.framing import Enlargement, checked_framing
from ldm.data.items import ReadableItems, Skips, check_choice
from ldm.data.listing import find_classes, list_folder, split_files
from ldm.errors import DataError
from ldm.files import open_regular, reason, shown

Array = npt.NDArray[Any]

_INTERPOLATIONS = {"area": "area", "bilinear": "bilinear", "nearest": "nearest-exact"}


class ArrayFolder(Dataset[dict[str, Any]]):
    """Arrays (.npy) of a folder and its sub-folders: satellite bands, CT slices, spectra.

    Each item is a dict of ``image`` float (C, H, W) in [-1, 1] and, where the folder has classes,
    ``class_label`` int. Files may hold integers or floats of any width. They are memory-mapped:
    only the crop is read. Reading never executes code. Splits, crops and flips are those of
    ``ldm.data.ImageFolder``; crops are rounded to whole pixels before they are resized.

    Args:
        root: the folder.
        size: side of the square result or (height, width), in pixels.
        channels: C, which every array must have.
        value_range: (low, high), the values that become -1 and 1.
        layout: order of the axes, hwc or chw. Arrays (H, W) have one channel in both.
        outside: what values outside ``value_range`` do: clip them, or error.
        fill: value, in units of the arrays, that replaces NaN and infinity; None makes them an
            error.
        split, validation_fraction, seed, resize, crop, crop_scale, flip, classes, num_classes: as
            in ``ldm.data.ImageFolder``.
        interpolation: area, bilinear (anti-aliased) or nearest.
        broken: what an unreadable file does: skip = warn once per file (and worker) and take
            the next readable one instead, error = raise. Readable arrays of a wrong shape or with
            values that may not be are always an error.
        small: what an array below the crop does: upscale = enlarge it, with one warning, or
            error = raise.

    Raises:
        DataError: the folder is missing, empty or lacks what the options ask for, or its first
            array does not fit them.
    """

    def __init__(
        self,
        root: str | Path,
        size: int | Sequence[int],
        channels: int,
        value_range: Sequence[float],
        layout: str = "hwc",
        outside: str = "clip",
        fill: float | None = None,
        split: str = "train",
        validation_fraction: float = 0.05,
        seed: int = 0,
        resize: int | str | None = None,
        crop: str = "center",
        crop_scale: Sequence[float] | None = None,
        interpolation: str = "bilinear",
        flip: float = 0.0,
        classes: str = "auto",
        num_classes: int | None = None,
        broken: str = "skip",
        small: str = "upscale",
    ) -> None:
        check_choice("folder", "layout", layout, ("hwc", "chw"))
        check_choice("folder", "outside", outside, ("clip", "error"))
        check_choice("folder", "interpolation", interpolation, tuple(_INTERPOLATIONS))
        self.root = Path(root).expanduser()
        if len(value_range) != 2 or not value_range[0] < value_range[1]:
            raise DataError(
                f"array folder '{self.root}': value_range {list(value_range)} is not [low, high]"
            )
        self.channels, self.layout = channels, layout
        self.value_range = (float(value_range[0]), float(value_range[1]))
        self.outside, self.fill = outside, fill
        self.framing = checked_framing(
            f"array folder '{self.root}'",
            size,
            resize=resize,
            crop=crop,
            flip=flip,
            crop_scale=crop_scale,
            interpolation=interpolation,
        )
        self._enlargement = Enlargement(self.framing, small)
        found = list_folder(self.root, (".npy",), "array").images
        self.files = split_files(self.root, found, split, validation_fraction, seed)
        what = f"folder '{self.root}'"
        self._items = ReadableItems(what, len(self.files), self._read, broken, seed)
        self.classes = find_classes(self.root, found, classes, num_classes)
        self._class_ids = {name: i for i, name in enumerate(self.classes)}
        first, stored = self._items[0]
        # a wrong option shows before training begins
        self._channels_first(self.files[first], stored)

    @property
    def skips(self) -> Skips:
        """How often another array was taken in place of a broken one, over all workers."""
        return self._items.skips

    def __len__(self) -> int:
        return len(self._items)

    def set_epoch(self, epoch: int) -> None:
        """Give the following items new random crops and flips, also in running workers."""
        self._items.set_epoch(epoch)

    def __getitem__(self, index: int) -> dict[str, Any]:
        used, stored = self._items[index]
        file = self.files[used]
        array = self._channels_first(file, stored)
        height, width = array.shape[1:]
        self._enlargement.check(self.root / file, width, height)
        cut = self.framing.cut(width, height, self._items.draws(index))
        cut_height, cut_width = max(1, round(cut.height)), max(1, round(cut.width))
        top, left = min(int(cut.top), height - cut_height), min(int(cut.left), width - cut_width)
        part = array[:, top : top + cut_height, left : left + cut_width]
        image = self._resize(self._normalise(file, part))
        entries: dict[str, Any] = {"image": image.flip(-1) if cut.mirror else image}
        if self.classes:
            entries["class_label"] = self._class_ids[file.split("/", 1)[0]]
        return entries

    def _read(self, index: int) -> Array:
        return open_array(self.root / self.files[index])

    def _channels_first(self, file: str, array: Array) -> Array:
        """A view (C, H, W) of an array whose shape is checked."""
        where = f"array '{self.root / file}' of shape {array.shape}"
        if array.ndim == 2:
            array = array[None]
        elif array.ndim == 3:
            array = np.moveaxis(array, -1, 0) if self.layout == "hwc" else array
        else:
            raise DataError(f"{where} is no image: it needs the axes (H, W) or {self.layout}")
        if array.shape[0] != self.channels:
            raise DataError(
                f"{where} has {array.shape[0]} channels of {array.shape[1]} x {array.shape[2]} "
                f"pixels in layout={self.layout}, not channels={self.channels}: correct one of them"
            )
        return array

    def _normalise(self, file: str, part: Array) -> Tensor:
        """Values as float32 in [-1, 1]."""
        low, high = self.value_range
        values = part.astype(np.float64)
        finite = np.isfinite(values)
        if not finite.all():
            if self.fill is None:
                raise DataError(
                    f"array '{self.root / file}' holds NaN or infinity: mend it, or set fill to "
                    "the value that replaces them"
                )
            values[~finite] = self.fill
        if self.outside == "error" and (values.min() < low or values.max() > high):
            raise DataError(
                f"array '{self.root / file}' holds values from {values.min():g} to "
                f"{values.max():g}, outside value_range [{low:g}, {high:g}]: widen it or set "
                "outside=clip"
            )
        values = (values.clip(low, high) - low) * (2 / (high - low)) - 1
        return torch.from_numpy(values.astype(np.float32))

    def _resize(self, image: Tensor) -> Tensor:
        size = (self.framing.height, self.framing.width)
        if image.shape[1:] == size:
            return image.contiguous()
        mode = _INTERPOLATIONS[self.framing.interpolation]
        return F.interpolate(image[None], size, mode=mode, antialias=mode == "bilinear")[0]


def open_array(path: Path) -> Array:
    """Memory-map a .npy file of real numbers, which cannot execute code.

    Raises:
        DataError: the file is missing, damaged or holds something else; the message names it.
    """
    try:
        array = map_array(path)
    except Exception as error:  # a damaged header can raise any kind
        raise DataError(
            f"cannot read array '{shown(path)}' ({reason(error)}): mend or remove it"
        ) from error
    if array.dtype.kind not in "fiub" or array.size == 0:
        raise DataError(
            f"cannot read array '{shown(path)}': it holds no real numbers; mend or remove it"
        )
    return array


def map_array(path: Path) -> Array:
    """Memory-map a .npy file; it neither waits for a pipe nor believes a size that is not there.

    Raises:
        Exception: of many kinds, if it cannot be read.
    """
    open_regular(path).close()
    array: Array = open_memmap(path, mode="r")
    return array
