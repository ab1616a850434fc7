"""Group normalisation as the published networks use it."""

from __future__ import annotations

from torch import Tensor, nn

GROUPS = 32


class GroupNorm(nn.GroupNorm):
    """Group normalisation whose result has the dtype of its input.

    Autocast computes in float32 and would keep that for the activation that follows, at twice
    the memory.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> (B, C, ...)."""
        return super().forward(x).to(x.dtype)


def group_norm(channels: int, eps: float = 1e-5) -> GroupNorm:
    """Affine group normalisation with 32 groups (Wu & He, 2018).

    Args:
        channels: Width of the feature map, a multiple of 32.
        eps: 1e-5 in the UNet; 1e-6 in the autoencoders and the spatial transformer.

    Raises:
        ValueError: If ``channels`` is not a multiple of 32.
    """
    if channels <= 0 or channels % GROUPS:
        raise ValueError(
            f"{channels} channels cannot be normalised in {GROUPS} groups: choose a base width "
            f"(model_channels of a UNet, channels of an autoencoder) that is a multiple of {GROUPS}"
        )
    return GroupNorm(GROUPS, channels, eps=eps)
