from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ldm.errors import UserError
from ldm.evaluation import comparison
from ldm.evaluation.comparison import FeatureComparison
from ldm.evaluation.metrics.fid import FeatureStatistics, frechet_distance
from ldm.evaluation.metrics.inception_score import InceptionScore
from ldm.evaluation.metrics.precision_recall import precision_recall
from ldm.evaluation.networks.base import extract_features


class Colour(nn.Module):
    name, dim = "Colour", 3

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))


class Classes(Colour):
    def features_and_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self(images), images.flatten(1)[:, :6] * 5


def images(n: int, seed: int) -> Tensor:
    return torch.randn(n, 3, 4, 4, generator=torch.Generator().manual_seed(seed))


def compared(extractor: nn.Module, real: Tensor, fake: Tensor, size: int) -> FeatureComparison:
    result = FeatureComparison(extractor, "cpu", len(fake))  # type: ignore[arg-type]
    for batch in real.split(size):
        result.add_real(batch)
    for batch in fake.split(size):
        result.add_fake(batch)
    return result


@pytest.mark.parametrize("size", [1, 7, 40])
def test_batches_of_any_size_give_the_numbers_of_all_images(size: int) -> None:
    real, fake = images(40, 0), images(30, 1) * 1.2
    got = compared(Classes(), real, fake, size)
    a, b = (extract_features(Colour(), [x]) for x in (real, fake))
    want = frechet_distance(*(FeatureStatistics(3).update(x) for x in (a, b)))
    assert got.frechet() == pytest.approx(want, rel=1e-6)
    assert got.precision_recall() == (precision_recall(a, b), 40, 30)
    logits = fake.clamp(-1, 1).flatten(1)[:, :6] * 5
    assert got.inception_score() == pytest.approx(InceptionScore(30).update(logits).compute())


def test_precision_and_recall_look_at_the_first_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "MOST_NEIGHBOURS", 10)
    real, fake = images(40, 0), images(30, 1)
    got = compared(Colour(), real, fake, 7)
    a, b = (extract_features(Colour(), [x[:10]]) for x in (real, fake))
    assert got.precision_recall() == (precision_recall(a, b), 10, 10)


def test_no_inception_score_without_classes_or_with_few_images() -> None:
    assert compared(Colour(), images(12, 0), images(12, 1), 12).inception_score() is None
    assert compared(Classes(), images(12, 0), images(9, 1), 12).inception_score() is None


def test_too_few_images() -> None:
    few = compared(Colour(), images(3, 0), images(12, 1), 12)
    for measure in (few.frechet, few.precision_recall):
        with pytest.raises(UserError, match="3 real and 12 other images: at least 4"):
            measure()
