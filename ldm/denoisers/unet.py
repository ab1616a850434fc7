"""The time-conditional UNet of latent diffusion models (Dhariwal & Nichol 2021; LDM, appendix E).

``LayerFactory`` knows which layer the options ask for, ``UNet`` the order of the layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.errors import MOST_LAYERS, check_count
from ldm.layers.attention import AttentionBlock, SpatialTransformer
from ldm.layers.basics import (
    GROUPS,
    check_levels,
    group_norm,
    of_arguments,
    timestep_embedding,
    zeroed,
)
from ldm.layers.convolution import Downsample, Upsample
from ldm.layers.resblock import ResBlock

UNSET = -1
"""Value of an option about heads that is not given, as in published configurations."""


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
    """Makes the layers of one network; the fields are arguments of :class:`UNet`."""

    emb_channels: int
    num_heads: int
    num_head_channels: int
    num_heads_upsample: int = UNSET
    use_spatial_transformer: bool = False
    transformer_depth: int = 1
    context_dim: int | None = None
    dropout: float = 0.0
    conv_resample: bool = True
    use_scale_shift_norm: bool = False
    resblock_updown: bool = False
    use_new_attention_order: bool = False
    legacy: bool = True
    use_checkpoint: bool = False
    norm_groups: int = GROUPS
    use_linear_in_transformer: bool = False

    def heads(self, channels: int, upsampling: bool = False) -> tuple[int, int]:
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
        count, width = self.num_heads, self.num_head_channels
        if width != UNSET:
            heads = channels // width if width > 0 else 0
        elif self.legacy and upsampling and not self.use_spatial_transformer:
            heads = count if self.num_heads_upsample == UNSET else self.num_heads_upsample
        else:
            heads = count
        if not 1 <= heads <= channels:
            raise ValueError(
                f"no attention head fits {channels} channels with num_heads={count}, "
                f"num_head_channels={width}, num_heads_upsample={self.num_heads_upsample}"
            )
        exact = width != UNSET and not (self.legacy and self.use_spatial_transformer)
        return heads, width if exact else channels // heads

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
        heads, head_dim = self.heads(channels, upsampling)
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


class UNet(nn.Module):
    """Denoiser of LDM (section 3.2 and appendix E.2; the architecture of ADM).

    Parameter names are those of the published checkpoints (below ``model.diffusion_model.``).

    Args:
        in_channels: Channels of x, those of a concatenated condition included.
        out_channels: Channels of the prediction.
        model_channels: Base width, a multiple of 32.
        num_res_blocks: Residual blocks per level (one more in the upsampling half).
        attention_resolutions: Down-sampling factors (1, 2, 4, ...) at which there is attention;
            the middle always has it.
        channel_mult: Width of each level in units of ``model_channels``; starts with 1.
        num_heads: Heads per attention layer; -1: not given.
        num_head_channels: Width of a head, wins over ``num_heads``; -1: not given. If neither is
            given, heads are 32 wide.
        num_heads_upsample: Heads in the upsampling half; -1: as ``num_heads``. When it counts is
            told by :meth:`LayerFactory.heads`.
        use_spatial_transformer: Attention layers are transformers that can attend to a context.
        transformer_depth: Transformer blocks per spatial transformer.
        context_dim: Width of the context; None: no context.
        num_classes: Number of class ids ``y`` whose embedding is added to that of the step.
        dropout: Probability of dropping a feature in the residual blocks.
        conv_resample: Learned kernels for going up and down.
        use_scale_shift_norm: The step embedding scales and shifts normalised features.
        resblock_updown: Residual blocks go up and down instead.
        use_new_attention_order: See :class:`~ldm.layers.attention.AttentionBlock`.
        legacy: See :meth:`LayerFactory.heads`.
        use_checkpoint: Recompute activations in the backward pass: less memory, slower.
        norm_groups: Groups of all normalisations, 32 as published; see
            :func:`~ldm.layers.basics.group_norm`.
        use_linear_in_transformer: Linear layers in place of the 1x1 convolutions of the spatial
            transformers (Stable Diffusion 2).

    Raises:
        ValueError: If the arguments do not fit together.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        model_channels: int,
        num_res_blocks: int = 2,
        attention_resolutions: Sequence[int] = (2, 4),
        channel_mult: Sequence[int] = (1, 2, 4),
        num_heads: int = UNSET,
        num_head_channels: int = UNSET,
        num_heads_upsample: int = UNSET,
        use_spatial_transformer: bool = False,
        transformer_depth: int = 1,
        context_dim: int | None = None,
        num_classes: int | None = None,
        dropout: float = 0.0,
        conv_resample: bool = True,
        use_scale_shift_norm: bool = False,
        resblock_updown: bool = False,
        use_new_attention_order: bool = False,
        legacy: bool = True,
        use_checkpoint: bool = False,
        norm_groups: int = GROUPS,
        use_linear_in_transformer: bool = False,
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
        check_count("transformer_depth", transformer_depth, 0, MOST_LAYERS)
        if context_dim is not None and not use_spatial_transformer:
            raise ValueError(f"context_dim={context_dim} needs use_spatial_transformer=True")
        if use_linear_in_transformer and not use_spatial_transformer:
            raise ValueError("use_linear_in_transformer needs use_spatial_transformer=True")
        if num_heads == UNSET and num_head_channels == UNSET:
            num_head_channels = 32
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.model_channels = model_channels
        self.context_dim = context_dim
        self.num_classes = num_classes
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
        if num_classes is not None:
            self.label_emb = nn.Embedding(num_classes, emb_channels)
        self.input_blocks, skips = downsampling_half(
            make, in_channels, widths, attend, num_res_blocks
        )
        self.middle_block = TimestepBlock(
            [
                make.residual(widths[-1], widths[-1]),
                make.attention(widths[-1]),
                make.residual(widths[-1], widths[-1]),
            ]
        )
        self.output_blocks = _upsampling_half(make, skips, widths, attend, num_res_blocks)
        self.out = nn.Sequential(
            group_norm(model_channels, groups=norm_groups),
            nn.SiLU(),
            zeroed(nn.Conv2d(model_channels, out_channels, 3, padding=1)),
        )

    def forward(
        self, x: Tensor, t: Tensor, context: Tensor | None = None, y: Tensor | None = None
    ) -> Tensor:
        """Predict from a noisy latent.

        Args:
            x: (B, in_channels, h, w) of any size. Where ``downsampling_factor`` does not divide a
                side, the last row or column is repeated until it does; the prediction is cut.
            t: Diffusion steps (B,), integer or fractional.
            context: (B, L, context_dim).
            y: Class ids (B,).

        Returns:
            Prediction (B, out_channels, h, w) in the dtype of ``x``.

        Raises:
            ValueError: If a shape does not fit, or a condition is missing or not expected.
        """
        self._check(x, t, context, y)
        emb = self.time_embed(timestep_embedding(t, self.model_channels).to(x.dtype))
        if y is not None:
            emb = emb + self.label_emb(y)
        h = continue_to_multiple(x, self.downsampling_factor)
        skips = []
        for block in self.input_blocks:
            h = block(h, emb, context)
            skips.append(h)
        h = self.middle_block(h, emb, context)
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), emb, context)
        return self.out(h)[:, :, : x.shape[2], : x.shape[3]].to(x.dtype)

    def _check(self, x: Tensor, t: Tensor, context: Tensor | None, y: Tensor | None) -> None:
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"x must be (B, {self.in_channels}, h, w), got {tuple(x.shape)}")
        batch = x.shape[0]
        if t.shape != (batch,):
            raise ValueError(f"t must have shape ({batch},), got {tuple(t.shape)}")
        if context is not None and self.context_dim is None:
            raise ValueError("got a context, but this UNet was built without context_dim")
        if self.context_dim is not None and (
            context is None
            or context.ndim != 3
            or context.shape[0] != batch
            or context.shape[2] != self.context_dim
        ):
            got = None if context is None else tuple(context.shape)
            raise ValueError(f"context must be ({batch}, L, {self.context_dim}), got {got}")
        if y is not None and self.num_classes is None:
            raise ValueError("got class ids y, but this UNet was built without num_classes")
        if self.num_classes is not None and (
            y is None or y.shape != (batch,) or y.is_floating_point()
        ):
            raise ValueError(
                f"y must be class ids of shape ({batch},), got "
                f"{None if y is None else (tuple(y.shape), y.dtype)}"
            )


def continue_to_multiple(x: Tensor, factor: int) -> Tensor:
    """X (B, C, h, w), its last row and column repeated until ``factor`` divides the sides."""
    below, right = -x.shape[2] % factor, -x.shape[3] % factor
    return F.pad(x, (0, right, 0, below), mode="replicate") if below or right else x


def downsampling_half(
    make: LayerFactory,
    in_channels: int,
    widths: Sequence[int],
    attend: Sequence[bool],
    num_res_blocks: int,
) -> tuple[nn.ModuleList, list[int]]:
    """Blocks of the first half and the widths of their outputs, which the second half reuses."""
    channels = widths[0]
    blocks = nn.ModuleList([TimestepBlock([nn.Conv2d(in_channels, channels, 3, padding=1)])])
    skips = [channels]
    for level, width in enumerate(widths):
        for _ in range(num_res_blocks):
            layers: list[nn.Module] = [make.residual(channels, width)]
            channels = width
            if attend[level]:
                layers.append(make.attention(channels))
            blocks.append(TimestepBlock(layers))
            skips.append(channels)
        if level != len(widths) - 1:
            blocks.append(TimestepBlock([make.down(channels)]))
            skips.append(channels)
    return blocks, skips


def _upsampling_half(
    make: LayerFactory,
    skips: list[int],
    widths: Sequence[int],
    attend: Sequence[bool],
    num_res_blocks: int,
) -> nn.ModuleList:
    """Blocks of the second half; each takes one output of the first half, last one first."""
    skips = list(skips)
    channels = widths[-1]
    blocks = nn.ModuleList()
    for level in reversed(range(len(widths))):
        for i in range(num_res_blocks + 1):
            layers: list[nn.Module] = [make.residual(channels + skips.pop(), widths[level])]
            channels = widths[level]
            if attend[level]:
                layers.append(make.attention(channels, upsampling=True))
            if level != 0 and i == num_res_blocks:
                layers.append(make.up(channels))
            blocks.append(TimestepBlock(layers))
    return blocks
