"""Convolutional encoder and decoder of the first stages (LDM, appendix G; VQGAN)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.layers.basics import GROUPS, check_levels, group_norm
from ldm.layers.convolution import (
    Conv3x3,
    DownsampleRightBottom,
    Upsample,
    project,
    to_map,
    to_tokens,
)

EPS = 1e-6


class ResnetBlock(nn.Module):
    """Two normalised 3x3 convolutions with a residual.

    Args:
        channels: Width of the input, a multiple of ``norm_groups``.
        out_channels: Width of the output.
        dropout: Probability of dropping a feature before the second convolution.
        norm_groups: Groups of the normalisations.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        dropout: float = 0.0,
        norm_groups: int = GROUPS,
    ) -> None:
        super().__init__()
        self.norm1 = group_norm(channels, EPS, norm_groups)
        self.conv1 = Conv3x3(channels, out_channels)
        self.norm2 = group_norm(out_channels, EPS, norm_groups)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = Conv3x3(out_channels, out_channels)
        self.nin_shortcut = (
            nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, h, w) -> (B, out_channels, h, w)."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return self.nin_shortcut(x) + h


class AttnBlock(nn.Module):
    """Self-attention over positions with one head as wide as the feature map, and a residual."""

    def __init__(self, channels: int, norm_groups: int = GROUPS) -> None:
        super().__init__()
        self.norm = group_norm(channels, EPS, norm_groups)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        h = to_tokens(self.norm(x))
        q, k, v = (project(layer, h).unsqueeze(1) for layer in (self.q, self.k, self.v))
        out = F.scaled_dot_product_attention(q, k, v).squeeze(1)
        return x + to_map(project(self.proj_out, out), like=x)


@dataclass(frozen=True)
class Architecture:
    """Sizes that an encoder and its decoder share.

    Attributes:
        in_channels: Channels of the image.
        out_channels: Channels of the reconstruction; None: ``in_channels``.
        channels: Base width, a multiple of ``norm_groups``.
        channel_mult: Width of each level in units of ``channels``; every level but the last
            halves the sides.
        num_res_blocks: Residual blocks per level (one more in the decoder).
        attn_resolutions: Sides (in pixels, at the nominal ``resolution``) at which there is
            attention besides the middle.
        resolution: Nominal side of the images. It only places the attention: images of any size
            can be used.
        z_channels: Channels of the innermost map.
        dropout: Probability of dropping a feature in the residual blocks.
        mid_attention: False removes all attention, that of ``attn_resolutions`` included.
        resample_with_conv: Learned kernels for going up and down.
        tanh_out: Squash the reconstruction to (-1, 1).
        norm_groups: Groups of all normalisations, 32 as published; see
            :func:`~ldm.layers.basics.group_norm`.
    """

    in_channels: int = 3
    out_channels: int | None = None
    channels: int = 128
    channel_mult: Sequence[int] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    attn_resolutions: Sequence[int] = ()
    resolution: int = 256
    z_channels: int = 4
    dropout: float = 0.0
    mid_attention: bool = True
    resample_with_conv: bool = True
    tanh_out: bool = False
    norm_groups: int = GROUPS

    def __post_init__(self) -> None:
        if not self.channel_mult:
            raise ValueError("channel_mult needs at least one level")
        names = ("in_channels", "channels", "z_channels", "resolution")
        counts = {name: getattr(self, name) for name in names}
        check_levels(self.channel_mult, self.num_res_blocks, **counts)

    @property
    def downsampling_factor(self) -> int:
        """Side of the image over side of the latent, f."""
        return int(2 ** (len(self.channel_mult) - 1))

    def width(self, level: int) -> int:
        """Channels of the feature maps of a level (0 has the highest resolution)."""
        return self.channels * self.channel_mult[level]

    def attends(self, level: int) -> bool:
        """Whether the blocks of a level are followed by attention."""
        return self.mid_attention and self.resolution // 2**level in self.attn_resolutions


class Level(nn.Module):
    """Residual blocks of one resolution, each followed by attention where there is to be some.

    Args:
        architecture: Sizes.
        level: Which level; 0 has the highest resolution.
        channels: Width of the input.
        blocks: Number of residual blocks.
    """

    def __init__(self, architecture: Architecture, level: int, channels: int, blocks: int) -> None:
        super().__init__()
        a = architecture
        out_channels = a.width(level)
        widths = [channels] + [out_channels] * (blocks - 1)
        self.block = nn.ModuleList(
            ResnetBlock(width, out_channels, a.dropout, a.norm_groups) for width in widths
        )
        self.attn = nn.ModuleList(
            AttnBlock(out_channels, a.norm_groups) for _ in widths if a.attends(level)
        )
        self.downsample: nn.Module | None = None
        self.upsample: nn.Module | None = None

    def forward(self, h: Tensor) -> Tensor:
        """(B, channels, h, w) -> (B, out_channels, h', w')."""
        for i, block in enumerate(self.block):
            h = block(h)
            if self.attn:
                h = self.attn[i](h)
        for resample in (self.downsample, self.upsample):
            if resample is not None:
                h = resample(h)
        return h


class Middle(nn.Module):
    """Two residual blocks at the lowest resolution with attention between them."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        a = architecture
        channels = a.width(len(a.channel_mult) - 1)
        self.block_1 = ResnetBlock(channels, channels, a.dropout, a.norm_groups)
        self.attn_1 = AttnBlock(channels, a.norm_groups) if a.mid_attention else nn.Identity()
        self.block_2 = ResnetBlock(channels, channels, a.dropout, a.norm_groups)

    def forward(self, h: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        return self.block_2(self.attn_1(self.block_1(h)))


class Encoder(nn.Module):
    """Image (B, in_channels, H, W) -> feature map at 1/f of the sides (odd sides round down).

    Args:
        architecture: Sizes.
        double_z: Give 2 * z_channels channels (mean and log-variance) instead of z_channels.
    """

    def __init__(self, architecture: Architecture, double_z: bool) -> None:
        super().__init__()
        a = architecture
        self.factor = a.downsampling_factor
        channels = a.channels
        self.conv_in = nn.Conv2d(a.in_channels, channels, 3, padding=1)
        self.down = nn.ModuleList()
        for i in range(len(a.channel_mult)):
            level = Level(a, i, channels, a.num_res_blocks)
            channels = a.width(i)
            if i != len(a.channel_mult) - 1:
                level.downsample = DownsampleRightBottom(channels, a.resample_with_conv)
            self.down.append(level)
        self.mid = Middle(a)
        self.norm_out = group_norm(channels, EPS, a.norm_groups)
        self.conv_out = nn.Conv2d(channels, (1 + double_z) * a.z_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, z_channels or twice that, H // f, W // f)."""
        if min(x.shape[2:]) < self.factor:
            raise ValueError(f"sides must be at least {self.factor}, got {tuple(x.shape)}")
        h = self.conv_in(x)
        for level in self.down:
            h = level(h)
        h = self.mid(h)
        return self.conv_out(F.silu(self.norm_out(h)))


class Decoder(nn.Module):
    """Latent (B, z_channels, h, w) -> image (B, out_channels, f*h, f*w)."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        a = architecture
        last = len(a.channel_mult) - 1
        channels = a.width(last)
        self.tanh_out = a.tanh_out
        self.conv_in = nn.Conv2d(a.z_channels, channels, 3, padding=1)
        self.mid = Middle(a)
        levels = []
        for i in range(last, -1, -1):
            level = Level(a, i, channels, a.num_res_blocks + 1)
            channels = a.width(i)
            if i != 0:
                level.upsample = Upsample(channels, a.resample_with_conv)
            levels.append(level)
        # Published names count levels from the highest resolution, which is applied last.
        self.up = nn.ModuleList(reversed(levels))
        self.norm_out = group_norm(channels, EPS, a.norm_groups)
        out_channels = a.in_channels if a.out_channels is None else a.out_channels
        self.conv_out = nn.Conv2d(channels, out_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """(B, z_channels, h, w) -> (B, out_channels, f*h, f*w)."""
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            h = level(h)
        h = F.silu(self.norm_out(h))
        # In full precision also under autocast: the adaptive weight of the adversarial loss is a
        # ratio of gradients at this kernel, which are sums over all pixels and overflow float16.
        with torch.autocast(h.device.type, enabled=False):
            h = self.conv_out(h.to(self.conv_out.weight.dtype))
        return torch.tanh(h) if self.tanh_out else h
