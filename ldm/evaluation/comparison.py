"""Real and generated images compared by their features, gathered batch by batch."""

from __future__ import annotations

import torch
from torch import Tensor

from ldm.errors import UserError
from ldm.evaluation.metrics.fid import FeatureStatistics, frechet_distance
from ldm.evaluation.metrics.inception_score import InceptionScore, Score
from ldm.evaluation.metrics.precision_recall import PrecisionRecall, precision_recall
from ldm.evaluation.networks.base import FeatureExtractor

FEWEST = 4
"""Precision and recall look at the third neighbour."""
MOST_NEIGHBOURS = 10_000
"""Images of each side whose features are kept for precision and recall, which need them all."""
SPLITS = 10
"""Parts of the Inception score."""


class FeatureComparison:
    """Statistics of the features of real and of fake images.

    Args:
        extractor: in eval mode. One with a method ``features_and_logits`` also gives the Inception
            score of the fake images.
        device: where it lives.
        num_fake: how many fake images will be seen.
    """

    def __init__(
        self, extractor: FeatureExtractor, device: torch.device | str, num_fake: int
    ) -> None:
        self.extractor = extractor
        self._device = device
        self._real, self._fake = (FeatureStatistics(extractor.dim) for _ in range(2))
        self._kept: dict[str, list[Tensor]] = {"real": [], "fake": []}
        scored = hasattr(extractor, "features_and_logits") and num_fake >= SPLITS
        self._score = InceptionScore(num_fake, SPLITS) if scored else None

    @torch.no_grad()
    def add_real(self, images: Tensor) -> None:
        """Add images (B, 3, H, W) in [-1, 1]; values outside are clamped."""
        self._add("real", self._real, self.extractor(self._prepared(images)))

    @torch.no_grad()
    def add_fake(self, images: Tensor) -> None:
        """Add images (B, 3, H, W) in [-1, 1]; values outside are clamped."""
        images = self._prepared(images)
        if self._score is None:
            features = self.extractor(images)
        else:
            features, logits = self.extractor.features_and_logits(images)  # type: ignore[attr-defined]
            self._score.update(logits)
        self._add("fake", self._fake, features)

    def frechet(self) -> float:
        """Fréchet distance of all real and all fake features."""
        self._check()
        return frechet_distance(self._real, self._fake)

    def precision_recall(self) -> tuple[PrecisionRecall, int, int]:
        """Of the first ``MOST_NEIGHBOURS`` images of each side, and how many those were."""
        self._check()
        real, fake = torch.cat(self._kept["real"]), torch.cat(self._kept["fake"])
        return precision_recall(real, fake), len(real), len(fake)

    def inception_score(self) -> Score | None:
        """Of the fake images; None if the network has no classes, or there are too few images."""
        return None if self._score is None else self._score.compute()

    def _prepared(self, images: Tensor) -> Tensor:
        return images.to(self._device).clamp(-1, 1)

    def _add(self, side: str, statistics: FeatureStatistics, features: Tensor) -> None:
        features = features.float().cpu()
        room = MOST_NEIGHBOURS - statistics.count
        statistics.update(features)
        if room > 0:
            self._kept[side].append(features[:room])

    def _check(self) -> None:
        if min(self._real.count, self._fake.count) < FEWEST:
            raise UserError(
                f"features of {self._real.count} real and {self._fake.count} other images: at "
                f"least {FEWEST} of each are needed"
            )
