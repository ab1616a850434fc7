"""CIFAR-10 as it is distributed (binary version), or as tar archives of images by class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ldm.data.image_io import EXTENSIONS, decode_image
from ldm.data.items import Uniform, check_choice
from ldm.data.listing import check_folder
from ldm.data.shards.tar import list_members
from ldm.errors import DataError
from ldm.files import read_bytes, reason, shown

CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
_BATCHES = {
    "train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    "test": ("test_batch.bin",),
}
_RECORD = 1 + 3 * 32 * 32
_PLACES = ("", "cifar-10-batches-bin")


class Cifar10:
    """A source (``ldm.data.ImageSource``) of 32 x 32 images with ``class_label``.

    A folder of images with a sub-folder per class needs none: that is ``ldm.data.folder``.

    Args:
        root: holds data_batch_1.bin, ... and test_batch.bin (or cifar-10-batches-bin/ with them),
            or archives train-*.tar and test-*.tar with files such as cat/0001.jpg.
        split: train or test.

    Raises:
        DataError: there are no such files, or they are damaged.
    """

    classes = CLASSES

    def __init__(self, root: str | Path, split: str = "train") -> None:
        self.root = Path(root).expanduser()
        check_choice("CIFAR-10", "split", split, tuple(_BATCHES))
        places = [self.root / place for place in _PLACES]
        folder = next((f for f in places if (f / _BATCHES[split][0]).is_file()), None)
        self._records, self._members = None, []
        if folder is not None:
            self._records = np.concatenate([_records(folder / n) for n in _BATCHES[split]])
            self._labels = [int(label) for label in self._records[:, 0]]
            return
        check_folder(self.root, "CIFAR-10", "set its path")
        for archive in sorted(self.root.glob(f"{split}*.tar")):
            if archive.is_file():
                self._members += list_members(archive, EXTENSIONS)
        self._labels = [_class_of(str(member), member.name) for member in self._members]
        if not self._members:
            raise DataError(f"'{shown(self.root)}' holds no CIFAR-10: {_advice(self.root, split)}")

    def __len__(self) -> int:
        return len(self._labels)

    def name(self, index: int) -> str:
        """Path of the archive and the file in it, or number of the record."""
        return f"{self.root} #{index}" if self._records is not None else str(self._members[index])

    def read(self, index: int, at_least: int | None) -> tuple[Image.Image, tuple[int, int]]:
        """The image and its size."""
        if self._records is None:
            return decode_image(self._members[index].read(), self.name(index), at_least)
        pixels = self._records[index, 1:].reshape(3, 32, 32).transpose(1, 2, 0)
        return Image.fromarray(np.ascontiguousarray(pixels)), (32, 32)

    def entries(self, index: int, _uniform: Uniform) -> dict[str, Any]:
        """``class_label``."""
        return {"class_label": self._labels[index]}


def _records(path: Path) -> np.ndarray:
    try:
        values = np.frombuffer(read_bytes(path), np.uint8)
    except OSError as error:
        raise DataError(
            f"cannot read '{shown(path)}' ({reason(error)}): get CIFAR-10 again"
        ) from error
    if values.size == 0 or values.size % _RECORD:
        raise DataError(
            f"'{shown(path)}' has {values.size} bytes, no multiple of {_RECORD}: get it again"
        )
    records = values.reshape(-1, _RECORD)
    if records[:, 0].max() >= len(CLASSES):
        raise DataError(f"'{shown(path)}': class id {records[:, 0].max()} is outside 0 to 9")
    return records


def _class_of(where: str, name: str) -> int:
    folder = name.split("/")[-2] if "/" in name else ""
    if folder not in CLASSES:
        raise DataError(f"'{where}' lies in no folder of a class ({', '.join(CLASSES)})")
    return CLASSES.index(folder)


def _advice(root: Path, split: str) -> str:
    pickled = [root / "data_batch_1", root / "cifar-10-batches-py" / "data_batch_1"]
    if any(path.is_file() for path in pickled):
        return (
            "these are the Python batches, which may run code when they are read; take the binary "
            "version, cifar-10-binary.tar.gz, from the same page"
        )
    return f"it needs {_BATCHES[split][0]}, ... of the binary version, or {split}-*.tar"
