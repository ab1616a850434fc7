"""The contract that all first stages keep."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ldm.autoencoders.posterior import Posterior


class Reconstruction(NamedTuple):
    """One pass through an autoencoder, as its training needs it."""

    image: Tensor
    """Reconstruction (B, C, H, W)."""
    posterior: Posterior
    codebook_loss: Tensor | None
    """Scalar; None without a codebook."""
    indices: Tensor | None
    """Chosen codes (B, h, w); None without a codebook."""


class Autoencoder(Protocol):
    """A first stage: images x (B, C, H, W) in [-1, 1], latents z (B, c, H/f, W/f)."""

    image_channels: int
    """C."""
    downsampling_factor: int
    """f."""
    latent_channels: int
    """c."""

    def encode(self, x: Tensor) -> Posterior:
        """Distribution of the latents of ``x``."""
        ...

    def decode(self, z: Tensor) -> Tensor:
        """Images of the latents ``z``."""
        ...

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Reconstruction:
        """Encode, draw a latent, decode."""
        ...
