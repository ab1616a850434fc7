"""Latent statistics: the one number by which latents are scaled to unit variance.

Moments of several batches or ranks are added up; only the sums decide the factor, so that it does
not depend on how the data were split.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor


def latent_moments(latents: Iterable[Tensor]) -> Tensor:
    """Count, sum and sum of squares over all elements of all tensors, float64 (3,) on the CPU.

    Add the results of several calls or ranks element by element.
    """
    total = torch.zeros(3, dtype=torch.float64)
    for z in latents:
        values = z.detach().double()
        sums = torch.stack([values.sum(), (values * values).sum()]).cpu()
        total += torch.cat([torch.tensor([float(z.numel())], dtype=torch.float64), sums])
    return total


def scale_from_moments(moments: Tensor) -> float:
    """1 / (unbiased standard deviation over all elements), from ``latent_moments``.

    Raises:
        ValueError: if there are fewer than two elements, or if they do not vary.
    """
    count, total, squares = moments.tolist()
    if count < 2:
        raise ValueError(f"the standard deviation of {count:.0f} latent elements is undefined")
    variance = (squares - total * total / count) / (count - 1)
    if not variance > 0 or not math.isfinite(variance):
        raise ValueError(f"latents have variance {variance}: nothing to scale by")
    return 1 / math.sqrt(variance)
