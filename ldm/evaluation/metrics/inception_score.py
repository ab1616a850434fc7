"""Inception score (Salimans et al. 2016), gathered batch by batch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Score(NamedTuple):
    """Mean and standard deviation over the splits (divided by their number, as in the original)."""

    mean: float
    std: float


class InceptionScore:
    r"""``exp(E_x KL(p(y|x) || p(y)))``, in each of several random parts of the images.

    With ``E KL = E sum p log p - sum q log q``, q = E p, each part needs two sums only, so images
    and logits can be forgotten. The parts are those of torch-fidelity, which shuffles the images by
    a fixed seed; so the total must be known beforehand.

    Args:
        num_images: how many images will be seen.
        splits: number of parts, 10 as published.
        seed: seed of the shuffle; 2020 is torch-fidelity's. None = no shuffle: the parts are
            consecutive images, as in ADM's script.

    Raises:
        ValueError: there are fewer images than parts.
    """

    def __init__(self, num_images: int, splits: int = 10, seed: int | None = 2020) -> None:
        if num_images < splits:
            raise ValueError(f"an Inception score of {splits} parts needs {splits} images or more")
        order = np.arange(num_images)
        if seed is not None:
            order = np.random.RandomState(seed).permutation(num_images)
        bounds = [part * num_images // splits for part in range(splits + 1)]
        part_of = np.empty(num_images, np.int64)
        for part in range(splits):
            part_of[order[bounds[part] : bounds[part + 1]]] = part
        self._part_of = torch.from_numpy(part_of)
        self._sizes = torch.tensor(np.diff(bounds), dtype=torch.float64)
        self._seen = 0
        self._entropies = torch.zeros(splits, dtype=torch.float64)  # sums of sum p log p
        self._marginals: Tensor | None = None

    def update(self, logits: Tensor) -> InceptionScore:
        """Add the logits (B, classes) of the next images; returns itself.

        Raises:
            ValueError: there are more images than announced, or a logit is not finite.
        """
        logits = logits.detach().cpu().double()
        if not logits.isfinite().all():
            raise ValueError("logits hold NaN or infinite values")
        parts = self._part_of[self._seen : self._seen + len(logits)]
        if len(parts) < len(logits):
            raise ValueError(f"more images than the {len(self._part_of)} that were announced")
        if self._marginals is None:
            self._marginals = torch.zeros(
                len(self._sizes), logits.shape[1], dtype=torch.float64, device="cpu"
            )
        self._seen += len(logits)
        log_p = logits.log_softmax(dim=1)
        p = log_p.exp()
        self._marginals.index_add_(0, parts, p)
        self._entropies.index_add_(0, parts, (p * log_p).sum(dim=1))
        return self

    def compute(self) -> Score:
        """The score.

        Raises:
            ValueError: not all announced images were seen.
        """
        if self._marginals is None or self._seen < len(self._part_of):
            raise ValueError(f"{self._seen} of {len(self._part_of)} images were seen")
        q = self._marginals / self._sizes[:, None]
        divergences = self._entropies / self._sizes - torch.xlogy(q, q).sum(dim=1)
        scores = divergences.exp()
        return Score(float(scores.mean()), float(scores.std(correction=0)))
