"""All images in one npz file, read and written in the format of Dhariwal & Nichol (2021)."""

from __future__ import annotations

import contextlib
import hashlib
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ldm.containers.npz import MOST_BYTES, Array, names_of, opened_array, read_whole
from ldm.containers.zips import check_zip
from ldm.errors import DamagedFileError, UserError
from ldm.evaluation.sources.base import (
    Content,
    ContentCache,
    ContentCounter,
    Head,
    Item,
    ReadSource,
    SourceInfo,
    first_of,
)
from ldm.files import reason, shown, write_atomically
from ldm.visualization.images import read_png

IMAGES, LABELS = "arr_0", "arr_1"
MOST_PIXELS = 128_000_000
"""Of one image."""
_MOST_CLASSES = 1 << 31
_SHOWN = 10


class NpzSource(ReadSource):
    """``arr_0`` uint8 (N, H, W, 3) or (N, H, W, 1), and the labels ``arr_1`` (N,) if there are any.

    The file is streamed: memory holds a batch, whatever its size. The hash is of the pixels.

    Args:
        where: the file.
        num: use the first so many.
        cache: remembers the hash.

    Raises:
        UserError: the file is absent, damaged or holds something else, which is said.
    """

    def __init__(
        self,
        where: str,
        num: int | None = None,
        cache: ContentCache | None = None,
    ) -> None:
        self._path, self._cache = Path(where).expanduser(), cache or ContentCache()
        with _opened(self._path, IMAGES) as array:
            self._shape = _checked(array, self._path)
        count = self._shape[0]
        self._labels = _labels(self._path, count)
        self._whole = False
        super().__init__(where, first_of(count, num, where), False)

    def _items(self, rank: int, processes: int) -> Iterator[Item]:
        labels = self._labels
        for index, data in self._arrays(rank, processes):
            yield Item(index, self._image(data), None if labels is None else labels[index])

    def _image(self, data: bytes) -> Tensor:
        values = torch.frombuffer(bytearray(data), dtype=torch.uint8).reshape(self._shape[1:])
        return values.permute(2, 0, 1).expand(3, -1, -1).contiguous()

    def _arrays(self, rank: int, processes: int) -> Iterator[tuple[int, bytes]]:
        self._check()
        length = int(np.prod(self._shape[1:]))
        with _opened(self._path, IMAGES) as array:
            try:
                array.stream.seek(rank * length, 1)
                for index in range(rank, len(self), processes):
                    data = array.stream.read(length)
                    if len(data) < length:
                        raise EOFError(f"it ends within image {index}")
                    yield index, data
                    array.stream.seek((processes - 1) * length, 1)
            except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
                raise _damaged(self._path, error) from error

    def _check(self) -> None:
        """Compare the images with their checksum, which a part of them cannot be compared with."""
        if not self._whole:
            try:
                check_zip(self._path, [f"{IMAGES}.npy"])
            except (OSError, DamagedFileError) as error:
                raise _damaged(self._path, error.__cause__ or error) from error
            self._whole = True

    def _info(self) -> SourceInfo:
        content = self._cache.content(f"npz {len(self)}", [self._path], self._scan)
        labels = self._labels and self._labels[: len(self)]
        return self._describe("npz", content, self._shape[0], labels, captions=False)

    def _scan(self) -> Content:
        counter, (_, height, width, channels) = ContentCounter(), self._shape
        mode = "RGB" if channels == 3 else "L"
        for _, data in self._arrays(0, 1):
            digest = hashlib.sha256(data).hexdigest()
            counter.add(Head(f"{height}x{width}", digest, "npz", mode, (height, width)))
        return counter.content()


def array_names(path: Path) -> list[str]:
    """Names of the arrays in an npz file.

    Raises:
        UserError: it is absent or no npz file.
    """
    try:
        return names_of(path)
    except FileNotFoundError:
        raise UserError(f"'{shown(path)}' does not exist") from None
    except (OSError, DamagedFileError) as error:
        raise UserError(
            f"'{shown(path)}' is no npz file, or is cut short "
            f"({reason(error.__cause__ or error)}): write it with numpy.savez"
        ) from error


def read_array(path: Path, name: str, most: int = MOST_BYTES) -> np.ndarray:
    """One array of an npz file; one with Python objects, which may run code, is refused.

    Raises:
        UserError: it is absent, damaged or refused.
    """
    try:
        with opened_array(path, name) as array:
            return read_whole(array, most)
    except (OSError, DamagedFileError) as error:
        why = reason(error.__cause__ or error)
        raise UserError(f"'{shown(path)}': {name} cannot be read ({why})") from error


def array_shape(path: Path, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of one array of an npz file, which is not read.

    Raises:
        UserError: it is absent or damaged.
    """
    try:
        with opened_array(path, name) as array:
            return array.shape, array.dtype
    except (OSError, DamagedFileError) as error:
        why = reason(error.__cause__ or error)
        raise UserError(f"'{shown(path)}': {name} cannot be read ({why})") from error


@contextlib.contextmanager
def _opened(path: Path, name: str) -> Iterator[Array]:
    names = array_names(path)
    if name not in names:
        raise UserError(
            f"'{shown(path)}' holds {_listed(names)}: images must be called "
            f"{IMAGES}, stored statistics mu and sigma"
        )
    try:
        with opened_array(path, name) as array:
            yield array
    except (OSError, DamagedFileError) as error:
        why = reason(error.__cause__ or error)
        raise UserError(
            f"'{shown(path)}': {name} is damaged or no array ({why}): write it again"
        ) from error


def _listed(names: Sequence[str]) -> str:
    """Some names of arrays, as a message shows them in a line."""
    shown_names = [name if name.isprintable() else ascii(name) for name in names[:_SHOWN]]
    return ", ".join(name[:80] for name in shown_names) or "nothing"


def _damaged(path: Path, error: BaseException) -> UserError:
    return UserError(f"'{shown(path)}' is damaged ({reason(error)}): write it again")


def _checked(array: Array, path: Path) -> tuple[int, ...]:
    shape, dtype = array.shape, array.dtype
    name = f"'{shown(path)}': {IMAGES} of shape {shape}"
    if array.fortran:
        raise UserError(f"{name} is in Fortran order: write it in C order")
    if dtype.kind == "f":
        raise UserError(
            f"{name} is {dtype}, not uint8: how images become 8-bit numbers changes what is "
            "measured, so do it yourself: whole numbers from 0 to 255"
        )
    if dtype != np.uint8:
        raise UserError(f"{name} is {str(dtype)[:80]}: images are uint8, from 0 to 255")
    if len(shape) != 4 or shape[3] not in (1, 3):
        turned = len(shape) == 4 and shape[1] in (1, 3)
        advice = ": put the channels last, transpose(0, 2, 3, 1)" if turned else ""
        raise UserError(f"{name}: images are (N, H, W, 3) or (N, H, W, 1){advice}")
    if 0 in shape:
        raise UserError(f"{name} holds no images")
    if shape[1] * shape[2] > MOST_PIXELS:
        raise UserError(f"{name}: images have at most {MOST_PIXELS} pixels")
    return shape


def _labels(path: Path, count: int) -> list[int] | None:
    if LABELS not in array_names(path):
        return None
    shape, dtype = array_shape(path, LABELS)
    if shape == (count,) and dtype.hasobject:
        read_array(path, LABELS)  # which says why it is refused
    if shape != (count,) or dtype.kind not in "iu":
        raise UserError(
            f"'{shown(path)}': {LABELS} is {str(dtype)[:80]} {shape}, not the whole number of a "
            f"class for each of the {count} images: correct or drop it"
        )
    labels = read_array(path, LABELS)
    if not 0 <= int(labels.min()) <= int(labels.max()) < _MOST_CLASSES:
        raise UserError(
            f"'{shown(path)}': {LABELS} goes from {labels.min()} to {labels.max()}, which are no "
            f"numbers of classes, 0 to {_MOST_CLASSES - 1}: correct or drop it"
        )
    return [int(label) for label in labels]


def write_npz(out: Path, files: Sequence[Path], labels: Sequence[int | None]) -> None:
    """``arr_0``: images (N, H, W, C), uint8; ``arr_1``: labels (N,), int64, if there are any.

    One image after another is read and written, so that memory does not limit their number.

    Raises:
        UserError: the images are not of one size.
    """
    write_atomically(out, lambda file: _write(file, files, labels))


def _write(file: Any, paths: Sequence[Path], labels: Sequence[int | None]) -> None:
    channels, height, width = read_png(paths[0]).shape
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as array:
            _write_header(array, np.uint8, (len(paths), height, width, channels))
            for path in tqdm(paths, desc="npz", unit="image", dynamic_ncols=True):
                pixels = read_png(path)
                if pixels.shape != (channels, height, width):
                    raise UserError("--npz: the images are not all of one size")
                array.write(pixels.permute(1, 2, 0).contiguous().numpy().tobytes())
        if None not in labels:
            with archive.open("arr_1.npy", "w") as array:
                _write_header(array, np.int64, (len(labels),))
                array.write(np.array(labels, np.int64).tobytes())


def _write_header(array: IO[bytes], dtype: type[np.generic], shape: tuple[int, ...]) -> None:
    description = np.lib.format.dtype_to_descr(np.dtype(dtype))
    header = {"descr": description, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(array, header)
