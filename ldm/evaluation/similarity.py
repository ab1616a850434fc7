"""Do samples resemble the neighbours they were conditioned on, and not just any image?"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

_ROUNDING = 1e-9
"""Similarities that differ by less are equal."""


class PairedSimilarity(NamedTuple):
    """Similarity of samples and their neighbours, against a permutation of the samples.

    Attributes:
        own: mean cosine of a sample and its own neighbours. Real images and their neighbours show
            how large it can be: measure them in the same way.
        shuffled: mean of the same over the permutations: what a model gets that ignores its
            neighbours, however good its images are.
        p_value: share of permutations that are at least as good as the true pairing, that one
            counted among them. Below 0.05 the neighbours have an effect; a model that ignores
            them gets any value from 0 to 1. It cannot fall below 1 / (1 + permutations).
        z: own minus shuffled, in standard deviations of the permutations: about 0 for a model
            that ignores its neighbours, above 3 is clear.
    """

    own: float
    shuffled: float
    p_value: float
    z: float


def paired_similarity(
    samples: Tensor, neighbours: Tensor, generator: torch.Generator, permutations: int = 1000
) -> PairedSimilarity:
    """Test whether samples resemble their own neighbours more than those of others.

    A permutation test (Fisher 1935): if the pairing meant nothing, every order of the samples would
    be as likely as the true one.

    Args:
        samples: embeddings (N, D) of the samples, of any length.
        neighbours: embeddings (N, k, D) of the neighbours that each was made from.
        generator: of the permutations, on the CPU.
        permutations: how many.

    Raises:
        ValueError: shapes do not fit, or there are fewer than two samples or no permutations.
    """
    n, width = samples.shape[0], samples.shape[-1]
    fits = samples.ndim == 2 and neighbours.ndim == 3
    if not fits or neighbours.shape[::2] != (n, width) or not neighbours.shape[1]:
        shapes = f"{tuple(samples.shape)} and neighbours {tuple(neighbours.shape)}"
        raise ValueError(f"samples {shapes} do not fit")
    if n < 2 or permutations < 1:
        raise ValueError(f"{n} samples, {permutations} permutations: 2 and 1 are the least")
    points = F.normalize(samples.double(), dim=1)
    # The mean cosine with k neighbours is the product with the mean of their directions.
    means = F.normalize(neighbours.double(), dim=2).mean(1)
    own = (points * means).sum() / n
    orders = [torch.randperm(n, generator=generator).to(points.device) for _ in range(permutations)]
    shuffled = torch.stack([(points[order] * means).sum() / n for order in orders])
    as_good = int((shuffled >= own - _ROUNDING).sum())
    deviation = shuffled.std(correction=0).clamp_min(_ROUNDING)
    return PairedSimilarity(
        own=float(own),
        shuffled=float(shuffled.mean()),
        p_value=(1 + as_good) / (1 + permutations),
        z=float((own - shuffled.mean()) / deviation),
    )
