"""CLIP score (Hessel et al. 2021): do pictures and their captions agree in CLIP's eyes?"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Score(NamedTuple):
    """Mean and standard deviation (divisor N - 1; 0 for one pair) over the pairs."""

    mean: float
    std: float


def clip_scores(images: Tensor, texts: Tensor) -> Tensor:
    """``100 * max(cosine, 0)`` of each pair, (N,) float64.

    The paper's factor is 2.5 for values around 1; 100 is what is reported for text-to-image models.
    Every pair is cut at 0, as in the paper; some libraries cut only the mean.

    Args:
        images: embeddings (N, D) of the pictures, of any length.
        texts: embeddings (N, D) of the caption of each.

    Raises:
        ValueError: shapes do not fit, or an embedding is not finite.
    """
    if images.ndim != 2 or images.shape != texts.shape or not len(images):
        raise ValueError(
            f"images {tuple(images.shape)} and texts {tuple(texts.shape)} are not both (N, D): "
            "embeddings of one network, a caption for each image"
        )
    if not (images.isfinite().all() and texts.isfinite().all()):
        raise ValueError("embeddings hold NaN or infinite values")
    cosines = (F.normalize(images.double(), dim=1) * F.normalize(texts.double(), dim=1)).sum(1)
    return 100 * cosines.clamp_min(0)


def clip_score(images: Tensor, texts: Tensor) -> Score:
    """Mean and deviation of ``clip_scores``, with its arguments and errors."""
    scores = clip_scores(images, texts)
    deviation = scores.std() if len(scores) > 1 else torch.zeros(())
    return Score(float(scores.mean()), float(deviation))
