"""The patch discriminator of the autoencoders."""

from __future__ import annotations

import math

from torch import nn

from ldm.errors import ConfigError
from ldm.layers.norm import GROUPS, group_norm


def patch_discriminator(
    in_channels: int = 3, width: int = 64, num_layers: int = 3, norm: str = "batch"
) -> nn.Module:
    """PatchGAN discriminator (Isola et al. 2017), freshly initialised.

    It is taming-transformers' network, whose parameter names ``main.*`` stand in published
    checkpoints. Convolutions start from N(0, 0.02), norm scales from N(1, 0.02).

    Args:
        in_channels: image channels.
        width: channels of the first layer; they double up to eight times that.
        num_layers: number of layers that halve the resolution.
        norm: "batch" as published, or "group" for small batches and the R1 penalty: a batch of one
            or two images has no useful statistics. All weights keep their names, shapes and initial
            values; only batch norm's running statistics fall away.

    Returns:
        A module from images (B, C, H, W) to logits (B, 1, h, w), one per overlapping patch.
    """
    from taming.modules.discriminator.model import NLayerDiscriminator, weights_init

    if norm not in ("batch", "group"):
        raise ConfigError(f"unknown norm {norm!r} of the discriminator: choose batch or group")
    network: nn.Module = NLayerDiscriminator(in_channels, width, num_layers).apply(weights_init)
    layers = network.main
    assert isinstance(layers, nn.Sequential)
    for i, layer in enumerate(layers):
        if norm == "group" and isinstance(layer, nn.BatchNorm2d):
            layers[i] = _group_norm_like(layer)
    return network


def _group_norm_like(layer: nn.BatchNorm2d) -> nn.Module:
    """Up to 32 groups, of four channels or more where the width allows it."""
    channels = layer.num_features
    groups = math.gcd(channels, min(GROUPS, max(1, channels // 4)))
    norm = group_norm(channels, layer.eps, groups)
    norm.weight, norm.bias = layer.weight, layer.bias
    return norm
