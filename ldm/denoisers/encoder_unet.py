"""The first half of a UNet with a head: a network that classifies noisy latents."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ldm.denoisers.unet import (
    UNSET,
    LayerFactory,
    TimestepBlock,
    continue_to_multiple,
    downsampling_half,
)
from ldm.layers.attention import AttentionPool
from ldm.layers.basics import (
    GROUPS,
    check_levels,
    group_norm,
    of_arguments,
    timestep_embedding,
    zeroed,
)

POOLS = ("attention", "adaptive", "spatial", "spatial_v2")
_HIDDEN = 2048


class EncoderUNet(nn.Module):
    """Classifier of ADM (Dhariwal & Nichol, 2021) and of LDM-8-G: input half, middle and a pool.

    Parameter names are those of the published ``EncoderUNetModel``.

    Args:
        in_channels: Channels of x.
        model_channels: Base width, a multiple of 32.
        out_channels: Width of the result: the number of classes.
        num_res_blocks: Residual blocks per level.
        attention_resolutions: This and ``channel_mult``: as those of :class:`UNet`.
        channel_mult: Width of each level in units of ``model_channels``; starts with 1.
        image_size: Side of the (square) x. Only the pool "attention" is bound to it, and needs it.
        pool: From maps to a vector: "attention" (:class:`AttentionPool`), "adaptive" (mean over all
            positions); or two linear layers on the means after every block, "spatial" with a ReLU
            and "spatial_v2" with a normalisation and SiLU.
        num_heads: This and all that follow: as those of :class:`UNet`.

    Raises:
        ValueError: If the arguments do not fit together.
    """

    def __init__(
        self,
        in_channels: int,
        model_channels: int,
        out_channels: int,
        num_res_blocks: int = 2,
        attention_resolutions: Sequence[int] = (2, 4),
        channel_mult: Sequence[int] = (1, 2, 4),
        image_size: int | None = None,
        pool: str = "attention",
        num_heads: int = UNSET,
        num_head_channels: int = UNSET,
        dropout: float = 0.0,
        conv_resample: bool = True,
        use_scale_shift_norm: bool = False,
        resblock_updown: bool = False,
        use_new_attention_order: bool = False,
        use_checkpoint: bool = False,
        norm_groups: int = GROUPS,
    ) -> None:
        super().__init__()
        if not channel_mult or channel_mult[0] != 1:
            raise ValueError(f"channel_mult must start with 1, got {list(channel_mult)}")
        check_levels(
            channel_mult,
            num_res_blocks,
            in_channels=in_channels,
            out_channels=out_channels,
            model_channels=model_channels,
        )
        if pool not in POOLS:
            raise ValueError(f"unknown pool {pool!r}: choose one of {', '.join(POOLS)}")
        if num_heads == UNSET and num_head_channels == UNSET:
            num_head_channels = 32
        self.in_channels = in_channels
        self.model_channels = model_channels
        self.out_channels = out_channels
        self.pool = pool
        self.downsampling_factor = 2 ** (len(channel_mult) - 1)
        emb_channels = 4 * model_channels
        make = of_arguments(LayerFactory, locals())
        widths = [mult * model_channels for mult in channel_mult]
        attend = [2**level in attention_resolutions for level in range(len(widths))]

        self.time_embed = nn.Sequential(
            nn.Linear(model_channels, emb_channels),
            nn.SiLU(),
            nn.Linear(emb_channels, emb_channels),
        )
        self.input_blocks, outputs = downsampling_half(
            make, in_channels, widths, attend, num_res_blocks
        )
        width = widths[-1]
        self.middle_block = TimestepBlock(
            [make.residual(width, width), make.attention(width), make.residual(width, width)]
        )
        if pool in ("spatial", "spatial_v2"):
            self.out = _spatial_head(sum(outputs) + width, out_channels, pool, norm_groups)
            return
        head: list[nn.Module] = [
            nn.AdaptiveAvgPool2d(1),
            zeroed(nn.Conv2d(width, out_channels, 1)),
            nn.Flatten(),
        ]
        if pool == "attention":
            side = _pooled_side(image_size, self.downsampling_factor)
            heads = num_heads if num_head_channels == UNSET else width // num_head_channels
            head = [AttentionPool(side, width, heads, out_channels)]
        self.out = nn.Sequential(group_norm(width, groups=norm_groups), nn.SiLU(), *head)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Logits of noisy latents.

        Args:
            x: (B, in_channels, h, w) of any size, continued as by the UNet where the sides are no
                multiples of ``downsampling_factor``; ``image_size`` where the pool is "attention".
            t: Diffusion steps (B,), integer or fractional.

        Returns:
            (B, out_channels) in the dtype of ``x``.

        Raises:
            ValueError: If a shape does not fit.
        """
        self._check(x, t)
        emb = self.time_embed(timestep_embedding(t, self.model_channels).to(x.dtype))
        spatial = self.pool in ("spatial", "spatial_v2")
        h = continue_to_multiple(x, self.downsampling_factor)
        means = []
        for block in (*self.input_blocks, self.middle_block):
            h = block(h, emb)
            if spatial:
                means.append(h.mean((2, 3)))
        return self.out(torch.cat(means, dim=1) if spatial else h).to(x.dtype)

    def _check(self, x: Tensor, t: Tensor) -> None:
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"x must be (B, {self.in_channels}, h, w), got {tuple(x.shape)}")
        if t.shape != (len(x),):
            raise ValueError(f"t must have shape ({len(x)},), got {tuple(t.shape)}")


def _pooled_side(image_size: int | None, factor: int) -> int:
    if image_size is None or image_size < factor or image_size % factor:
        raise ValueError(
            f"pool='attention' needs image_size, the side of x, as a multiple of {factor}; "
            f"got {image_size}"
        )
    return image_size // factor


def _spatial_head(features: int, out_channels: int, pool: str, norm_groups: int) -> nn.Sequential:
    first, last = nn.Linear(features, _HIDDEN), nn.Linear(_HIDDEN, out_channels)
    if pool == "spatial":
        return nn.Sequential(first, nn.ReLU(), last)
    return nn.Sequential(first, group_norm(_HIDDEN, groups=norm_groups), nn.SiLU(), last)
