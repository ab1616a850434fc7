"""Do samples show the class they were asked for, in the eyes of a classifier?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


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
