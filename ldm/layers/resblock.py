"""Residual block of the UNet, modulated by the embedding of the diffusion step."""

from __future__ import annotations

from torch import Tensor, nn

from ldm.layers.basics import GROUPS, group_norm, run, zeroed
from ldm.layers.convolution import Conv3x3, double, halve


class ResBlock(nn.Module):
    """Two 3x3 convolutions with a residual; the step embedding enters between them (ADM).

    The second convolution starts at zero.

    Args:
        channels: Width of the input, a multiple of ``norm_groups``.
        emb_channels: Width of the step embedding.
        out_channels: Width of the output; None: ``channels``.
        dropout: Probability of dropping a feature before the second convolution.
        use_scale_shift_norm: The embedding scales and shifts the second normalisation; otherwise
            it is added before it.
        up: Double the sides (both branches).
        down: Halve the sides (both branches).
        use_checkpoint: Recompute activations in the backward pass.
        norm_groups: Groups of the normalisations.
    """

    def __init__(
        self,
        channels: int,
        emb_channels: int,
        out_channels: int | None = None,
        dropout: float = 0.0,
        use_scale_shift_norm: bool = False,
        up: bool = False,
        down: bool = False,
        use_checkpoint: bool = False,
        norm_groups: int = GROUPS,
    ) -> None:
        super().__init__()
        if up and down:
            raise ValueError("a residual block goes up or down, not both")
        out_channels = channels if out_channels is None else out_channels
        self.use_scale_shift_norm = use_scale_shift_norm
        self.use_checkpoint = use_checkpoint
        self.resample = double if up else halve if down else None
        self.in_layers = nn.Sequential(
            group_norm(channels, groups=norm_groups),
            nn.SiLU(),
            Conv3x3(channels, out_channels),
        )
        self.emb_layers = nn.Sequential(
            nn.SiLU(),
            nn.Linear(emb_channels, 2 * out_channels if use_scale_shift_norm else out_channels),
        )
        self.out_layers = nn.Sequential(
            group_norm(out_channels, groups=norm_groups),
            nn.SiLU(),
            nn.Dropout(dropout),
            zeroed(Conv3x3(out_channels, out_channels)),
        )
        self.skip_connection = (
            nn.Identity() if out_channels == channels else nn.Conv2d(channels, out_channels, 1)
        )

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """(B, C, h, w), (B, emb_channels) -> (B, out_channels, h', w')."""
        return run(self._forward, x, emb, recompute=self.use_checkpoint)

    def _forward(self, x: Tensor, emb: Tensor) -> Tensor:
        norm_in, activation, conv_in = self.in_layers
        h = activation(norm_in(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = conv_in(h)

        norm_out, *rest = self.out_layers
        modulation = self.emb_layers(emb)[:, :, None, None]
        if self.use_scale_shift_norm:
            scale, shift = modulation.chunk(2, dim=1)
            h = norm_out(h) * (1 + scale) + shift
        else:
            h = norm_out(h + modulation)
        for layer in rest:
            h = layer(h)
        return self.skip_connection(x) + h
