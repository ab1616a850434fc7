"""Tensors as pictures: three of their channels, differences, PNG files, grids of thumbnails."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms.v2.functional import pad, resize
from torchvision.utils import make_grid

from ldm.errors import UserError
from ldm.files import read_bytes, reason, shown, write_atomically

WIDEST_GRID = 4096
"""In pixels."""


def as_rgb(images: Tensor) -> Tensor:
    """Images (B, C, H, W) in [-1, 1] as (B, 3, H, W) to look at.

    One channel is grey, of two the third is black (-1), of more the first three are shown.
    """
    channels = images.shape[1]
    if channels == 1:
        return images.expand(-1, 3, -1, -1)
    if channels == 2:
        return torch.cat([images, torch.full_like(images[:, :1], -1)], dim=1)
    return images[:, :3]


def three_channels(images: Tensor, choice: str | Sequence[int] | None = None) -> Tensor:
    """Images (B, C, H, W) as the (B, 3, H, W) that Inception and LPIPS take.

    Unlike ``as_rgb`` it takes no choice that the caller has not made, because numbers follow.

    Args:
        images: of any number of channels.
        choice: None = there are three; ``repeat`` = there is one, shown as grey; or the indices of
            the channels that are shown as red, green and blue.

    Raises:
        ValueError: the images do not have the channels for that.
    """
    channels = images.shape[1]
    if choice is None and channels == 3:
        return images
    if choice == "repeat" and channels == 1:
        return images.expand(-1, 3, -1, -1)
    if choice is not None and not isinstance(choice, str):
        indices = list(choice)
        if len(indices) == 3 and all(0 <= index < channels for index in indices):
            return images[:, indices]
    raise ValueError(
        f"images of {channels} channels where three are needed (choice {choice}): choose 'repeat' "
        "for one channel, or the indices of three channels such as 3,2,1"
    )


def difference(x: Tensor, y: Tensor, gain: float) -> Tensor:
    """``gain`` times the absolute difference of images in [-1, 1], black = none, as such an image.

    A difference of the whole range, amplified by 1, is white.
    """
    return ((x - y).abs() * gain - 1).clamp(-1, 1)


def to_bytes(images: Tensor, how: str = "round") -> Tensor:
    """Images in [-1, 1] as uint8 of the same shape, (x + 1) 127.5.

    Args:
        images: of any shape; values outside the range are cut to it.
        how: one of ``ldm.cli.options.sampling.BYTES``: ``round`` to the nearest number, or
            ``truncate``, which drops fractions as the original code does: a quarter to a half of
            all values are one less.
    """
    scaled = images.clamp(-1, 1).add(1).mul(127.5)
    return (scaled if how == "truncate" else scaled.round()).to(torch.uint8)


def save_png(image: Tensor, path: Path, how: str = "round") -> None:
    """Write an image (C, H, W) in [-1, 1], C = 1, 3 or 4, as PNG, complete or not at all.

    Args:
        image: what to write.
        path: the file.
        how: see ``to_bytes``.
    """
    _write_png(to_bytes(image, how), path)


def save_grid(files: Sequence[Path], columns: int, out: Path) -> None:
    """Lay PNG files out in rows of ``columns`` and write them as one picture."""
    _write_grid([read_png(file, ImageReadMode.RGB) for file in files], columns, out)


def read_png(file: Path, mode: ImageReadMode = ImageReadMode.UNCHANGED) -> Tensor:
    """A PNG file as uint8 (C, H, W), whatever it is called: torchvision takes names in UTF-8 only.

    Raises:
        UserError: it cannot be read.
    """
    try:
        data = torch.frombuffer(bytearray(read_bytes(file)), dtype=torch.uint8)
        return decode_image(data, mode)
    except (OSError, ValueError, RuntimeError) as error:
        text = f"{shown(file)}: cannot be read ({reason(error)}); delete it to have it made anew"
        raise UserError(text) from error


def save_sheet(images: Iterable[Tensor], columns: int, out: Path) -> None:
    """Lay images (3, H, W) in [-1, 1] out in rows of ``columns``, as one picture."""
    _write_grid([to_bytes(image) for image in images], columns, out)


def _write_grid(pictures: Sequence[Tensor], columns: int, out: Path) -> None:
    height, width = (max(picture.shape[side] for picture in pictures) for side in (-2, -1))
    scale = max(1, 64 // width)  # thumbnails of 32 pixels are hard to see
    even = torch.stack(
        [pad(p, [0, 0, width - p.shape[-1], height - p.shape[-2]], fill=255) for p in pictures]
    )
    even = even.repeat_interleave(scale, -2).repeat_interleave(scale, -1)
    widest = WIDEST_GRID // columns
    if even.shape[-1] > widest:
        even = resize(even, [max(1, height * widest // width), widest], antialias=True)
    _write_png(make_grid(even, nrow=columns, pad_value=255), out)


def _write_png(pixels: Tensor, path: Path) -> None:
    if len(pixels) not in (1, 3, 4):
        raise UserError(f"an image of {len(pixels)} channels cannot be a PNG, of 1, 3 or 4 it can")
    array = pixels.permute(1, 2, 0).contiguous().numpy()
    picture = Image.fromarray(array[:, :, 0] if len(pixels) == 1 else array)
    write_atomically(path, lambda file: picture.save(file, format="PNG"))
