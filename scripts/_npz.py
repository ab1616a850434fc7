"""All samples in one file, in the format of the evaluation suite of Dhariwal & Nichol (2021)."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from torchvision.io import read_image
from tqdm import tqdm

from ldm.atomic_write import write_atomically
from ldm.errors import UserError


def write_npz(out: Path, files: Sequence[Path], labels: Sequence[int | None]) -> None:
    """``arr_0``: images (N, H, W, C), uint8; ``arr_1``: labels (N,), int64, if there are any.

    One image after another is read and written, so that memory does not limit their number.

    Raises:
        UserError: the images are not of one size.
    """
    write_atomically(out, lambda file: _write(file, files, labels))


def _write(file: Any, paths: Sequence[Path], labels: Sequence[int | None]) -> None:
    channels, height, width = read_image(str(paths[0])).shape
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as array:
            _write_header(array, np.uint8, (len(paths), height, width, channels))
            for path in tqdm(paths, desc="npz", unit="image", dynamic_ncols=True):
                pixels = read_image(str(path))
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
