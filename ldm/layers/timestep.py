"""Sinusoidal embedding of the diffusion step."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def timestep_embedding(t: Tensor, dim: int, max_period: float = 10000.0) -> Tensor:
    """Cosines, then sines, of ``t`` at geometrically spaced frequencies (Ho et al., 2020).

    The i-th of ``dim // 2`` frequencies is ``max_period ** (-i / (dim // 2))``.

    Args:
        t: Steps of shape (B,), integer or fractional.
        dim: Width of the embedding; an odd width ends with a column of zeros.
        max_period: Controls the lowest frequency.

    Returns:
        Embedding of shape (B, dim) in float32, whatever the precision around it.
    """
    half = dim // 2
    index = torch.arange(half, dtype=torch.float32, device=t.device)
    frequencies = torch.exp(-math.log(max_period) * index / half)
    angles = t.float()[:, None] * frequencies
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=1), (0, dim % 2))
