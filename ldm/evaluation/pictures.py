"""Pictures of tensors with any number of channels, and what networks for RGB images see of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


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
