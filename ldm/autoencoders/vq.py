"""Autoencoder whose decoder sees latents rounded to a learned codebook."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ldm.autoencoders.base import Deterministic, Reconstruction
from ldm.autoencoders.networks import Architecture, Decoder, Encoder
from ldm.autoencoders.quantizer import VectorQuantizer


class AutoencoderVQ(nn.Module):
    """VQ-regularised first stage (LDM, section 3.1 and appendix G).

    The quantiser belongs to the decoder: diffusion models work on the latents before it.

    Args:
        architecture: Sizes of encoder and decoder.
        embed_dim: Channels of the latent.
        quantizer: Codebook of ``embed_dim`` channels.
    """

    def __init__(
        self, architecture: Architecture, embed_dim: int, quantizer: VectorQuantizer
    ) -> None:
        super().__init__()
        if quantizer.dim != embed_dim:
            raise ValueError(f"codes have {quantizer.dim} channels, latents {embed_dim}")
        self.image_channels = architecture.in_channels
        self.downsampling_factor = architecture.downsampling_factor
        self.latent_channels = embed_dim
        self.encoder = Encoder(architecture, double_z=False)
        self.decoder = Decoder(architecture)
        self.quantize = quantizer
        self.quant_conv = nn.Conv2d(architecture.z_channels, embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(embed_dim, architecture.z_channels, 1)

    @property
    def last_layer(self) -> Tensor:
        """Kernel at which the gradients of reconstruction and adversarial loss are balanced."""
        return self.decoder.conv_out.weight

    def encode(self, x: Tensor) -> Deterministic:
        """Latents before quantisation of images (B, C, H, W) in [-1, 1]."""
        return Deterministic(self.quant_conv(self.encoder(x)))

    def decode(self, z: Tensor, quantize: bool = True) -> Tensor:
        """Latents (B, embed_dim, h, w) -> images (B, C, f*h, f*w).

        Args:
            z: Latents.
            quantize: Round them to the codebook first; False if they already are.
        """
        if quantize:
            z = self.quantize(z).z
        return self.decoder(self.post_quant_conv(z))

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Reconstruction:
        """Encode, quantise, decode; nothing is drawn, so ``generator`` is not used."""
        posterior = self.encode(x)
        quantized = self.quantize(posterior.mode())
        image = self.decode(quantized.z, quantize=False)
        return Reconstruction(image, posterior, quantized.loss, quantized.indices)
