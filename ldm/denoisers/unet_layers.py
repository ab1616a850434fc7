"""The layers that a UNet is put together from, chosen by its options."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ldm.layers.attention import AttentionBlock, SpatialTransformer
from ldm.layers.resample import Downsample, Upsample
from ldm.layers.resblock import ResBlock

UNSET = -1
"""Value of an option about heads that is not given, as in published configurations."""


def attention_heads(
    channels: int,
    *,
    num_heads: int,
    num_head_channels: int,
    num_heads_upsample: int,
    use_spatial_transformer: bool,
    legacy: bool,
    upsampling: bool,
) -> tuple[int, int]:
    """Number and width of the heads of one attention layer, as the published code chooses them.

    With ch channels, n = ``num_heads``, w = ``num_head_channels``, u = ``num_heads_upsample``:

    ===================  ======  =====  ==============================  ===================
    layer                legacy  given  heads                           width of a head
    ===================  ======  =====  ==============================  ===================
    AttentionBlock       either  w      ch // w                         w
    AttentionBlock       True    n      n; u in the upsampling half     ch // heads
    AttentionBlock       False   n      n (u has no effect)             ch // n
    SpatialTransformer   either  n      n (u has no effect)             ch // n
    SpatialTransformer   True    w      ch // w                         ch // heads
    SpatialTransformer   False   w      ch // w                         w
    ===================  ======  =====  ==============================  ===================

    w wins where both are given, u is n where it is not given. So ``legacy`` matters only for u,
    and for spatial transformers where w does not divide ch.

    Raises:
        ValueError: If not a single head fits.
    """
    if num_head_channels != UNSET:
        heads = channels // num_head_channels if num_head_channels > 0 else 0
    elif legacy and upsampling and not use_spatial_transformer and num_heads_upsample != UNSET:
        heads = num_heads_upsample
    else:
        heads = num_heads
    if not 1 <= heads <= channels:
        raise ValueError(
            f"no attention head fits {channels} channels with num_heads={num_heads}, "
            f"num_head_channels={num_head_channels}, num_heads_upsample={num_heads_upsample}"
        )
    exact = num_head_channels != UNSET and not (legacy and use_spatial_transformer)
    return heads, num_head_channels if exact else channels // heads


class TimestepBlock(nn.ModuleList):
    """Layers in a row; each gets the step embedding or the context if it takes one."""

    def forward(self, x: Tensor, emb: Tensor, context: Tensor | None = None) -> Tensor:
        """(B, C, h, w), (B, E), (B, L, D) -> (B, C', h', w')."""
        for layer in self:
            if isinstance(layer, ResBlock):
                x = layer(x, emb)
            elif isinstance(layer, SpatialTransformer):
                x = layer(x, context)
            else:
                x = layer(x)
        return x


@dataclass(frozen=True)
class LayerFactory:
    """Makes the layers of one UNet; the fields are options of :class:`~ldm.denoisers.unet.UNet`."""

    emb_channels: int
    num_heads: int
    num_head_channels: int
    num_heads_upsample: int
    use_spatial_transformer: bool
    transformer_depth: int
    context_dim: int | None
    dropout: float
    conv_resample: bool
    use_scale_shift_norm: bool
    resblock_updown: bool
    use_new_attention_order: bool
    legacy: bool
    use_checkpoint: bool
    norm_groups: int
    use_linear_in_transformer: bool

    def residual(
        self, channels: int, out_channels: int, up: bool = False, down: bool = False
    ) -> ResBlock:
        """Residual block from ``channels`` to ``out_channels``."""
        return ResBlock(
            channels,
            self.emb_channels,
            out_channels,
            dropout=self.dropout,
            use_scale_shift_norm=self.use_scale_shift_norm,
            up=up,
            down=down,
            use_checkpoint=self.use_checkpoint,
            norm_groups=self.norm_groups,
        )

    def attention(self, channels: int, upsampling: bool = False) -> nn.Module:
        """Attention over positions, and over the context if there is one."""
        heads, head_dim = attention_heads(
            channels,
            num_heads=self.num_heads,
            num_head_channels=self.num_head_channels,
            num_heads_upsample=self.num_heads_upsample,
            use_spatial_transformer=self.use_spatial_transformer,
            legacy=self.legacy,
            upsampling=upsampling,
        )
        if not self.use_spatial_transformer:
            if channels != heads * head_dim and self.num_head_channels != UNSET:
                raise ValueError(
                    f"heads of num_head_channels={head_dim} do not fill {channels} channels"
                )
            return AttentionBlock(
                channels,
                heads,
                self.use_new_attention_order,
                self.use_checkpoint,
                self.norm_groups,
            )
        return SpatialTransformer(
            channels,
            heads,
            head_dim,
            self.transformer_depth,
            self.context_dim,
            use_checkpoint=self.use_checkpoint,
            norm_groups=self.norm_groups,
            linear=self.use_linear_in_transformer,
        )

    def down(self, channels: int) -> nn.Module:
        """Halving of the sides."""
        if self.resblock_updown:
            return self.residual(channels, channels, down=True)
        return Downsample(channels, self.conv_resample)

    def up(self, channels: int) -> nn.Module:
        """Doubling of the sides."""
        if self.resblock_updown:
            return self.residual(channels, channels, up=True)
        return Upsample(channels, self.conv_resample)
