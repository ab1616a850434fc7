"""Group normalisation as the published networks use it."""

from __future__ import annotations

from torch import Tensor, nn

GROUPS = 32
"""Groups of every published network."""


class GroupNorm(nn.GroupNorm):
    """Group normalisation whose result has the dtype of its input.

    Autocast computes in float32 and would keep that for the activation that follows, at twice
    the memory.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> (B, C, ...)."""
        return super().forward(x).to(x.dtype)


def group_norm(channels: int, eps: float = 1e-5, groups: int = GROUPS) -> GroupNorm:
    """Affine group normalisation (Wu & He, 2018).

    Args:
        channels: Width of the feature map, a multiple of ``groups``.
        eps: 1e-5 in the UNet; 1e-6 in the autoencoders and the spatial transformer.
        groups: Number of groups. A group of one channel loses its mean, and with it whatever is
            constant over an image.

    Raises:
        ValueError: If ``channels`` is not a multiple of ``groups``.
    """
    if groups < 1 or channels <= 0 or channels % groups:
        raise ValueError(
            f"{channels} channels cannot be normalised in {groups} groups: choose a base width "
            "(model_channels of a UNet, channels of an autoencoder) that is a multiple of "
            f"{groups}, or another norm_groups"
        )
    return GroupNorm(groups, channels, eps=eps)
