"""How images come to the size of a feature network: a choice that moves an FID by whole points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ldm.errors import UserError
from ldm.visualization.images import to_bytes

NETWORK = "network"
"""Resizing is left to the network, as torch-fidelity and ADM's script do."""

Size = tuple[int, int]


def to_uint8(images: Tensor, how: str = "round") -> Tensor:
    """Images (..., C, H, W) in [-1, 1], C = 1 or 3, as uint8 (..., 3, H, W); see ``to_bytes``."""
    return to_bytes(images, how).expand(*images.shape[:-3], 3, -1, -1).contiguous()


def clean(image: Tensor, size: Size) -> Tensor:
    """As clean-fid does: Pillow's bicubic filter on each channel in float, cut to [0, 255]."""
    channels = [Image.fromarray(channel.float().numpy()) for channel in image]
    filtered = [c.resize(size[::-1], Image.Resampling.BICUBIC) for c in channels]
    return torch.stack([torch.from_numpy(np.array(c)) for c in filtered]).clamp(0, 255)


def pil_bicubic(image: Tensor, size: Size) -> Tensor:
    """Pillow's bicubic filter at 8 bits: what ``torchvision`` does to a Pillow image."""
    return _pil(image, size, Image.Resampling.BICUBIC)


def pil_bilinear(image: Tensor, size: Size) -> Tensor:
    """Pillow's bilinear filter at 8 bits."""
    return _pil(image, size, Image.Resampling.BILINEAR)


def torch_bilinear(image: Tensor, size: Size) -> Tensor:
    """``F.interpolate`` as pytorch-fid does: pixels are left out where an image shrinks."""
    if image.shape[1:] == size:
        return image
    return F.interpolate(image[None].float(), size, mode="bilinear", align_corners=False)[0]


def tf1_bilinear(images: Tensor, size: Size) -> Tensor:
    """Bilinear interpolation of TensorFlow 1, which stands inside the published Inception network.

    Output pixel i lies at i * in / out of the input: corners of pixels are aligned where it should
    be their middles, so pictures shift by up to half a pixel; there is no antialiasing. In the
    order of operations of torch-fidelity, hence equal to the last bit.

    Args:
        images: (B, 3, H, W), float.
        size: (height, width) of the result.
    """
    top, bottom, down = _between(images.shape[2], size[0], images)
    left, right, across = _between(images.shape[3], size[1], images)
    near = images[..., left]
    rows = near + (images[..., right] - near) * across
    upper = rows[:, :, top]
    return upper + (rows[:, :, bottom] - upper) * down[:, None]


@dataclass(frozen=True)
class Method:
    """One way to resample an image: what does it, and what a report says of it."""

    resample: Callable[[Tensor, Size], Tensor]
    about: str


METHODS = {
    "clean": Method(
        clean, "bicubic by Pillow on float channels, antialiased, cut to 0..255, not rounded"
    ),
    "pil-bicubic": Method(pil_bicubic, "bicubic by Pillow, antialiased, rounded to 8 bits"),
    "pil-bilinear": Method(pil_bilinear, "bilinear by Pillow, antialiased, rounded to 8 bits"),
    "torch-bilinear": Method(
        torch_bilinear, "bilinear by torch, not antialiased, half-pixel centres, not rounded"
    ),
}
NAMES = (NETWORK, *METHODS)


@dataclass(frozen=True)
class Resizer:
    """Brings one image to the size of a network.

    Attributes:
        name: one of ``NAMES``.
        size: side of the result; None = images stay as they are.
        crop: the shorter side is resized and the middle square cut out, as CLIP was trained on;
            else the image is stretched to a square.
    """

    name: str
    size: int | None = None
    crop: bool = False

    def __call__(self, image: Tensor) -> Tensor:
        """Image (3, H, W) uint8 to (3, size, size), uint8 or float32 in [0, 255]."""
        if self.name == NETWORK or self.size is None:
            return image
        image = image.cpu()
        if not self.crop:
            return METHODS[self.name].resample(image, (self.size, self.size))
        height, width = image.shape[1:]
        longer = int(self.size * max(height, width) / min(height, width))
        size = (longer, self.size) if height > width else (self.size, longer)
        resized = METHODS[self.name].resample(image, size)
        top, left = (round((side - self.size) / 2) for side in size)
        return resized[:, top : top + self.size, left : left + self.size]

    def describe(self) -> str:
        """What a report says: filter, antialiasing, rounding."""
        if self.size is None:
            return "not resized"
        if self.name == NETWORK:
            return (
                f"{self.size}x{self.size} inside the network: bilinear of TensorFlow 1, not "
                "antialiased, aligned at the corners of pixels, not rounded"
            )
        kind = METHODS[self.name].about
        if self.crop:
            return f"shorter side to {self.size}, {kind}; middle square"
        return f"{self.size}x{self.size}, {kind}"


def resizer(name: str, size: int | None, crop: bool = False) -> Resizer:
    """The resizer of this name.

    Args:
        name: one of ``NAMES``.
        size: side that the network wants; None = it takes images of any size.
        crop: see :class:`Resizer`.

    Raises:
        UserError: there is no such resizer, or no size to bring images to.
    """
    if name not in NAMES:
        raise UserError(f"resize {name!r} is none of {', '.join(NAMES)}")
    if size is None and name != NETWORK:
        raise UserError(
            f"resize {name!r}: this network takes images as they are; leave it at {NETWORK!r}"
        )
    return Resizer(name, size, crop)


def _pil(image: Tensor, size: Size, kernel: Image.Resampling) -> Tensor:
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    return torch.from_numpy(np.array(picture.resize(size[::-1], kernel))).permute(2, 0, 1)


def _between(length: int, wanted: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Indices of the two pixels that each output pixel lies between, and its way from the first."""
    scale = torch.tensor(length / wanted, dtype=torch.float32, device=like.device)
    places = torch.arange(wanted, dtype=like.dtype, device=like.device) * scale
    first = places.long()
    return first, (first + 1).clamp_max(length - 1), places - first.float()
