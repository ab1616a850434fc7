"""Does a sample match its condition: neighbours, a class, or a caption?

Resemblance to the neighbours it was made from, and not just to any image; the class that a
classifier sees; CLIP score (Hessel et al. 2021), the agreement of picture and caption.
"""

from __future__ import annotations

from collections.abc import Sequence
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


class Accuracy(NamedTuple):
    """Shares of the images.

    Attributes:
        top1: whose likeliest class is the right one.
        top5: whose right class is among the five likeliest; 1 by necessity with five classes.
    """

    top1: float
    top5: float


def class_accuracy(logits: Tensor, labels: Tensor | Sequence[int]) -> Accuracy:
    """Top-1 and top-5 accuracy, called classification accuracy score where samples are judged.

    Classes that are as likely as the right one count as likelier, so that a classifier that tells
    nothing apart gets 0. The classifier must number classes as the labels do: the 1008 outputs of
    the Inception network of FIDs are in another order than ImageNet.

    Args:
        logits: (N, classes).
        labels: the class of each image, N integers.

    Raises:
        ValueError: lengths differ, a label is no class, or a logit is not finite.
    """
    labels = torch.as_tensor(labels, device=logits.device)
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not len(labels):
        raise ValueError(
            f"logits {tuple(logits.shape)} are not (N, classes) for {tuple(labels.shape)} labels"
        )
    if labels.is_floating_point() or labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ValueError(
            f"labels {labels.min()} to {labels.max()} are not classes of a classifier of "
            f"{logits.shape[1]}: the labels of the images must be numbered as its outputs are"
        )
    if not logits.isfinite().all():
        raise ValueError("logits hold NaN or infinite values")
    own = logits.gather(1, labels.long()[:, None])
    likelier = (logits >= own).sum(1) - 1  # itself
    return Accuracy(*((likelier < k).double().mean().item() for k in (1, 5)))


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
