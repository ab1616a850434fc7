"""The patch discriminator of the autoencoders."""

from __future__ import annotations

from torch import nn


def patch_discriminator(in_channels: int = 3, width: int = 64, num_layers: int = 3) -> nn.Module:
    """PatchGAN discriminator (Isola et al. 2017) with batch norm, freshly initialised.

    It is taming-transformers' network, whose parameter names ``main.*`` stand in published
    checkpoints. Convolutions start from N(0, 0.02), norm scales from N(1, 0.02).

    Args:
        in_channels: image channels.
        width: channels of the first layer; they double up to eight times that.
        num_layers: number of layers that halve the resolution.

    Returns:
        A module from images (B, C, H, W) to logits (B, 1, h, w), one per overlapping patch.
    """
    from taming.modules.discriminator.model import NLayerDiscriminator, weights_init

    network: nn.Module = NLayerDiscriminator(in_channels, width, num_layers).apply(weights_init)
    return network
