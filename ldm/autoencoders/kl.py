"""Autoencoder whose latents are pulled towards a standard normal distribution."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ldm.autoencoders.base import DiagonalGaussian, Reconstruction
from ldm.autoencoders.networks import Architecture, Decoder, Encoder


class AutoencoderKL(nn.Module):
    """KL-regularised first stage (LDM, section 3.1 and appendix G).

    Args:
        architecture: Sizes of encoder and decoder.
        embed_dim: Channels of the latent.
        initial_logvar: Log-variance of the posterior at the start of training. At the published 0
            the latents of an untrained encoder drown in unit noise, which a small KL weight takes
            thousands of steps to remove; -4 to -6 lets the decoder learn from the first step.
    """

    def __init__(
        self, architecture: Architecture, embed_dim: int, initial_logvar: float = 0.0
    ) -> None:
        super().__init__()
        self.image_channels = architecture.in_channels
        self.downsampling_factor = architecture.downsampling_factor
        self.latent_channels = embed_dim
        self.encoder = Encoder(architecture, double_z=True)
        self.decoder = Decoder(architecture)
        self.quant_conv = nn.Conv2d(2 * architecture.z_channels, 2 * embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(embed_dim, architecture.z_channels, 1)
        with torch.no_grad():
            self.quant_conv.bias[embed_dim:] += initial_logvar  # type: ignore[index]

    @property
    def last_layer(self) -> Tensor:
        """Kernel at which the gradients of reconstruction and adversarial loss are balanced."""
        return self.decoder.conv_out.weight

    def encode(self, x: Tensor) -> DiagonalGaussian:
        """Posterior of the latents of images (B, C, H, W) in [-1, 1]."""
        return DiagonalGaussian(self.quant_conv(self.encoder(x)))

    def decode(self, z: Tensor) -> Tensor:
        """Latents (B, embed_dim, h, w) -> images (B, C, f*h, f*w)."""
        return self.decoder(self.post_quant_conv(z))

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Reconstruction:
        """Encode, draw a latent, decode."""
        posterior = self.encode(x)
        return Reconstruction(self.decode(posterior.sample(generator)), posterior, None, None)
