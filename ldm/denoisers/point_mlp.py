"""A point-wise perceptron: a denoiser of vectors, for diffusion without images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.errors import MOST_LAYERS, check_count
from ldm.layers.basics import timestep_embedding, zeroed


class PointMLP(nn.Module):
    """Residual perceptron of single points x (B, C), of the step and of a class.

    Coordinates enter as they are and as sines and cosines of several frequencies: without those a
    perceptron learns the sharp outline of a shape very slowly (Tancik et al. 2020).

    Args:
        in_channels: Coordinates C of a point.
        dim: Width of the hidden layers.
        depth: Number of residual blocks.
        frequencies: Number of frequencies 1, 2, 4, ... (in radians per unit of x).
        num_classes: Number of class ids ``y`` whose embedding is added to that of the step.
    """

    def __init__(
        self,
        in_channels: int = 2,
        dim: int = 128,
        depth: int = 3,
        frequencies: int = 4,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        if min(in_channels, dim, depth) < 1 or frequencies < 0:
            raise ValueError(
                f"in_channels, dim and depth must be at least 1 and frequencies 0, got "
                f"{in_channels=}, {dim=}, {depth=}, {frequencies=}"
            )
        check_count("depth", depth, highest=MOST_LAYERS)
        check_count("frequencies", frequencies, 0, MOST_LAYERS)
        self.in_channels = in_channels
        self.context_dim: int | None = None
        self.dim = dim
        self.frequencies = frequencies
        self.num_classes = num_classes
        self.time_embed = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        if num_classes is not None:
            self.label_emb = nn.Embedding(num_classes, dim)
        self.enter = nn.Linear(in_channels * (1 + 2 * frequencies), dim)
        self.blocks = nn.ModuleList(PointBlock(dim) for _ in range(depth))
        self.out = zeroed(nn.Linear(dim, in_channels))

    def forward(
        self, x: Tensor, t: Tensor, context: Tensor | None = None, y: Tensor | None = None
    ) -> Tensor:
        """Predict for noisy points.

        Args:
            x: Points (B, C).
            t: Diffusion steps (B,), integer or fractional.
            context: Not taken; must be None.
            y: Class ids (B,).

        Returns:
            Prediction (B, C).

        Raises:
            ValueError: If a shape does not fit, or a condition is missing or not expected.
        """
        self._check(x, t, context, y)
        emb = self.time_embed(timestep_embedding(t, self.dim).to(x.dtype))
        if y is not None:
            emb = emb + self.label_emb(y)
        emb = F.silu(emb)
        h = self.enter(self._waves(x))
        for block in self.blocks:
            h = block(h, emb)
        return self.out(F.silu(h))

    def _waves(self, x: Tensor) -> Tensor:
        """The coordinates (B, C), and their sines and cosines: (B, C (1 + 2 frequencies))."""
        angles = torch.cat([x * 2**k for k in range(self.frequencies)] or [x[:, :0]], dim=1)
        return torch.cat([x, angles.sin(), angles.cos()], dim=1)

    def _check(self, x: Tensor, t: Tensor, context: Tensor | None, y: Tensor | None) -> None:
        if x.ndim != 2 or x.shape[1] != self.in_channels:
            raise ValueError(f"x must be points (B, {self.in_channels}), got {tuple(x.shape)}")
        if t.shape != (len(x),):
            raise ValueError(f"t must have shape ({len(x)},), got {tuple(t.shape)}")
        if context is not None:
            raise ValueError("a PointMLP takes no context: give class ids by the route 'adm'")
        if (y is None) != (self.num_classes is None):
            built, given = ("without", "some") if self.num_classes is None else ("with", "none")
            raise ValueError(f"this PointMLP was built {built} num_classes, got {given} class ids")
        if y is not None and (y.shape != (len(x),) or y.is_floating_point()):
            raise ValueError(f"y must be class ids ({len(x)},), got {tuple(y.shape)}, {y.dtype}")


class PointBlock(nn.Module):
    """h + W2 silu(W1 norm(h) scaled and shifted by the embedding); starts as the identity.

    Args:
        dim: Width of h and of the embedding.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.modulate = nn.Linear(dim, 2 * dim)
        self.hidden = nn.Linear(dim, dim)
        self.out = zeroed(nn.Linear(dim, dim))

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        """Features h (B, dim) under an embedding (B, dim)."""
        scale, shift = self.modulate(emb).chunk(2, dim=1)
        return h + self.out(F.silu(self.hidden(self.norm(h) * (1 + scale) + shift)))
