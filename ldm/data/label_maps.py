"""Label maps: a class id for every pixel, in a PNG file or an array, and how they look."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.data.arrays import map_array
from ldm.data.image_io import read_ids
from ldm.errors import DataError
from ldm.files import reason, shown

EXTENSIONS = (".png", ".npy")


def read_label_map(path: Path) -> Tensor:
    """The ids (H, W), int64, of a label map.

    Args:
        path: a PNG whose pixels are ids (palette, or grey of 1 to 16 bits; not colours), turned
            upright as its image is, or a
            ``.npy`` file of integers (H, W).

    Raises:
        DataError: the file is missing, damaged, or holds no ids.
    """
    ids = _from_array(path) if path.suffix.lower() == ".npy" else _from_image(path)
    return torch.from_numpy(ids.astype(np.int64))


def check_label_map(ids: Tensor, count: int, ignore: Sequence[int], where: str) -> None:
    """Refuse ids other than 0 to count - 1 and those in ``ignore``.

    Raises:
        DataError: it names ``where``, the first such id and its place.
    """
    known = (ids >= 0) & (ids < count)
    for other in ignore:
        known |= ids == other
    if known.all():
        return
    row, column = (~known).nonzero()[0].tolist()
    besides = f" or {', '.join(map(str, ignore))} (no class)" if ignore else ""
    raise DataError(
        f"{where}: unknown class id {int(ids[row, column])} at row {row}, column {column}; this "
        f"model knows 0 to {count - 1}{besides}"
    )


def resize_label_map(ids: Tensor, size: tuple[int, int]) -> Tensor:
    """A label map (H, W) in another size: every pixel is a copy of the nearest one.

    "Nearest" compares the centres of the pixels; a mean of two ids would be a third class.
    """
    rows, columns = (
        ((torch.arange(new, dtype=torch.float64) + 0.5) * old / new).long()
        for new, old in zip(size, ids.shape, strict=True)
    )
    return ids[rows][:, columns]


def pad_label_map(ids: Tensor, multiple: int) -> Tensor:
    """A label map (H, W), enlarged at the right and lower edge to multiples of a number.

    The last column and row are repeated, so that no border appears that is not there.
    """
    height, width = ids.shape
    padding = (0, -width % multiple, 0, -height % multiple)
    if not any(padding):
        return ids
    # replication of integers is not implemented; ids below 2^53 are exact in float64
    return F.pad(ids[None, None].double(), padding, mode="replicate")[0, 0].long()


def _from_array(path: Path) -> np.ndarray:
    try:
        ids = map_array(path)
    except Exception as error:  # a damaged header can raise any kind
        where = f"label map {shown(path)}"
        raise DataError(f"{where}: cannot be read ({reason(error)})") from error
    if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer) or not ids.size:
        raise DataError(
            f"label map {shown(path)}: must be integers (H, W), got {ids.dtype} {ids.shape}"
        )
    return ids


def _from_image(path: Path) -> np.ndarray:
    try:
        mode, image = read_ids(path)
    except DataError as error:
        where = f"label map {shown(path)}"
        raise DataError(f"{where}: cannot be read ({reason(error.__cause__ or error)})") from error
    if mode not in ("P", "L", "1") and not mode.startswith("I"):
        raise DataError(
            f"label map {shown(path)}: a picture of mode {mode} holds colours, not class ids: save "
            "the ids as grey or palette PNG"
        )
    return np.asarray(image)
