"""No first stage: diffusion on pixels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ldm.autoencoders.base import Deterministic, Reconstruction


class AutoencoderIdentity(nn.Module):
    """The latent is the image (LDM-1 in the paper).

    Args:
        channels: Channels of the image.
    """

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.image_channels = channels
        self.downsampling_factor = 1
        self.latent_channels = channels

    def encode(self, x: Tensor) -> Deterministic:
        """The image as its own latent."""
        return Deterministic(x)

    def decode(self, z: Tensor) -> Tensor:
        """The latent as an image."""
        return z

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Reconstruction:
        """The image itself; nothing is drawn, so ``generator`` is not used."""
        return Reconstruction(x, self.encode(x), None, None)
