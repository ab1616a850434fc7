"""What the measures of all tasks share: samples beside what they should be, and targets."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from _evaluation import Data
from _sampling import Job
from _sheet import Cell
from torch import Tensor

from ldm.errors import UserError
from ldm.evaluation.comparison import FeatureComparison
from ldm.evaluation.features import FeatureExtractor
from ldm.evaluation.pairs import PairStatistics
from ldm.evaluation.reconstruction_statistics import Distance, PerImage
from ldm.evaluation.report import EvaluationReport

Item = dict[str, Any]
BATCH = 64
"""Images that a network sees at once."""


@dataclass(frozen=True)
class Target:
    """What a number must reach: ``value``, or ``factor`` times another number of the report."""

    reached: Callable[[float, float], bool]
    text: str
    value: float

    def verdict(self, number: float) -> str:
        """For the note of the number."""
        return f"target {self.text}: {'met' if self.reached(number, self.value) else 'missed'}"


def at_least(value: float, text: str = "") -> Target:
    """The number must be that high."""
    return Target(operator.ge, text or f">= {value:.4g}", value)


def below(value: float, text: str = "") -> Target:
    """The number must not be that high."""
    return Target(operator.lt, text or f"< {value:.4g}", value)


@dataclass
class Evaluation:
    """Samples, what they were asked to be, and the report on them.

    Attributes:
        job: the model.
        items: held-out items whose conditions were asked for, images included.
        samples: one for each (N, C, H, W) in [-1, 1].
        validation: the data set of the items.
        train: makes the one that was trained on.
        extractor: makes features, None if there is none.
        lpips: distance of two sets of images, one number a pair; None if there is none.
        embed: makes embeddings of images, with the network of a retrieval model's neighbours.
        baseline: samples of another method on the same conditions, by its name.
        report: to be added to.
        about: what the measurements share.
        extra_cells: further pictures for the sheet, per item.
    """

    job: Job
    items: Sequence[Item]
    samples: Tensor
    validation: Data
    train: Callable[[], Data]
    extractor: FeatureExtractor | None
    lpips: Distance | None
    embed: Callable[[Tensor], Tensor] | None
    baseline: dict[str, Tensor]
    report: EvaluationReport
    about: dict[str, Any]
    extra_cells: dict[str, Sequence[Cell]] = field(default_factory=dict)

    @functools.cached_property
    def real(self) -> Tensor:
        """The images of the items (N, C, H, W)."""
        return torch.stack([item["image"] for item in self.items])

    @functools.cached_property
    def reconstructions(self) -> Tensor:
        """They, once through the first stage: the best that the model could do."""
        with torch.no_grad():
            parts = [
                self.job.model.decode(self.job.model.encode_mode(images.to(self.job.device)))
                for images in self.real.split(BATCH)
            ]
        return torch.cat(parts).clamp(-1, 1).float().cpu()

    def add(
        self, name: str, value: float, note: str = "", target: Target | None = None, **about: Any
    ) -> None:
        """A measurement of the report."""
        notes = [note] if note else []
        notes += [target.verdict(value)] if target else []
        counts = {"num_real": 0, "num_fake": len(self.samples)}
        self.report.add(name, value, note="; ".join(notes), **{**counts, **self.about, **about})

    def add_distance(
        self, name: str, fake: Tensor, note: str = "", target: Target | None = None
    ) -> None:
        """The Fréchet distance of a set of images from the real ones."""
        about = {"num_real": len(self.real), "extractor": self.extractor}
        self.add(name, self.distance(self.real, fake), note, target, **about)

    def distance(self, real: Tensor, fake: Tensor) -> float:
        """Fréchet distance of the features of two sets of images."""
        return self.compare(real, fake).frechet()

    def compare(self, real: Tensor, fake: Tensor) -> FeatureComparison:
        """Features of two sets of images, gathered."""
        if self.extractor is None:
            raise UserError("this needs --features")
        comparison = FeatureComparison(self.extractor, self.job.device, len(fake))
        for images, add in ((real, comparison.add_real), (fake, comparison.add_fake)):
            for part in images.split(BATCH):
                add(part)
        return comparison

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Features (N, D) of images."""
        assert self.extractor is not None
        parts = [self.extractor(part.to(self.job.device)) for part in images.split(BATCH)]
        return torch.cat(parts).float().cpu()

    def pairs(self, fake: Tensor) -> dict[str, PerImage]:
        """PSNR, SSIM and LPIPS of images and the real ones, as far as they can be had."""
        statistics = PairStatistics(None if self.lpips is None else self._distances)
        for real, images in zip(self.real.split(BATCH), fake.split(BATCH), strict=True):
            statistics.update(real, images)
        return statistics.values

    def _distances(self, real: Tensor, fake: Tensor) -> Tensor:
        assert self.lpips is not None
        return self.lpips(real.to(self.job.device), fake.to(self.job.device)).cpu()
