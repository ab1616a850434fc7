"""The metrics that a protocol may ask for: what each needs of the two sides, and its numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ldm.errors import UserError
from ldm.evaluation.metrics.alignment import class_accuracy, clip_score
from ldm.evaluation.metrics.fid import FeatureStatistics, frechet_distance
from ldm.evaluation.metrics.inception_score import InceptionScore
from ldm.evaluation.metrics.kid import kernel_distance
from ldm.evaluation.metrics.precision_recall import density_coverage, precision_recall

NOTHING, STATISTICS, POINTS = "nothing", "statistics", "points"
"""What a metric needs of a side: no image, mean and covariance, or the features themselves."""


@dataclass(frozen=True)
class Side:
    """The features of the real or of the fake images, as far as a metric needs them.

    Attributes:
        count: images that a number is made from; 0: none, or stored statistics of nobody knows how
            many.
        statistics: of all images, None if they were not needed.
        points: features (N, D) in the order of the images, of all or of a random part.
        labels: class of each of the points, None if the source has no classes.
        captions: of the points, None if the source has none.
        embed_texts: the text half of the network: captions to embeddings (N, D).
    """

    count: int = 0
    statistics: FeatureStatistics | None = None
    points: Tensor | None = None
    labels: Sequence[int] | None = None
    captions: Sequence[str] | None = None
    embed_texts: Callable[[Sequence[str]], Tensor] | None = None


class Number(NamedTuple):
    """A number of a metric, under its own name."""

    name: str
    value: float
    std: float | None = None
    note: str = ""


Compute = Callable[[Side, Side, Mapping[str, Any]], list[Number]]


@dataclass(frozen=True)
class Metric:
    """How a metric is computed.

    Attributes:
        compute: ``(real, fake, params) -> numbers``.
        output: the output of a feature network that it looks at by default; None = its first.
        real: what it needs of the real images.
        fake: what it needs of the fake ones.
        params: its parameters and their defaults. ``most_real`` and ``most_fake`` bound the number
            of features that are kept for it, None = all.
        shown: parameters that a reader must know.
        conditions: whether it looks at labels or captions of the images.
    """

    compute: Compute
    output: str | None
    real: str
    fake: str
    params: Mapping[str, Any] = field(default_factory=dict)
    shown: Sequence[str] = ()
    conditions: bool = False


def _frechet(real: Side, fake: Side, params: Mapping[str, Any]) -> list[Number]:
    assert real.statistics is not None
    assert fake.statistics is not None
    return [Number("fd", frechet_distance(real.statistics, fake.statistics))]


def _kernel(real: Side, fake: Side, params: Mapping[str, Any]) -> list[Number]:
    x, y = _points(real), _points(fake)
    size = min(params["size"], len(x), len(y))
    whole = size == len(x) == len(y)  # all subsets are the same: their spread says nothing
    subsets = 1 if whole else params["subsets"]
    mean, std = kernel_distance(x, y, subsets=subsets, size=size, seed=params["seed"])
    if whole:
        return [Number("kid", mean, None, f"of all {size}: too few for subsets")]
    return [Number("kid", mean, std, f"mean ± std over {subsets} subsets of {size}")]


def _inception_score(_: Side, fake: Side, params: Mapping[str, Any]) -> list[Number]:
    logits, splits = _points(fake), params["splits"]
    if len(logits) < splits:
        raise UserError(f"an Inception score of {splits} parts needs {splits} images or more")
    score = InceptionScore(len(logits), splits, params["seed"])
    for part in logits.split(4096):
        score.update(part)
    mean, std = score.compute()
    order = "in order" if params["seed"] is None else "shuffled"
    return [Number("inception_score", mean, std, f"mean ± std over {splits} parts, {order}")]


def _precision_recall(real: Side, fake: Side, params: Mapping[str, Any]) -> list[Number]:
    precision, recall = precision_recall(_points(real), _points(fake), params["k"])
    return [Number("precision", precision), Number("recall", recall)]


def _density_coverage(real: Side, fake: Side, params: Mapping[str, Any]) -> list[Number]:
    density, coverage = density_coverage(_points(real), _points(fake), params["k"])
    return [Number("density", density), Number("coverage", coverage)]


def _clip_score(_: Side, fake: Side, params: Mapping[str, Any]) -> list[Number]:
    if fake.captions is None:
        raise UserError("a CLIP score needs the captions of the images, of which there are none")
    if fake.embed_texts is None:
        raise UserError("a CLIP score needs a network with a text half: --features clip:ARCH")
    captions = fake.captions
    parts = [
        fake.embed_texts(captions[k : k + CAPTIONS_AT_ONCE]).float().cpu()
        for k in range(0, len(captions), CAPTIONS_AT_ONCE)
    ]
    mean, std = clip_score(_points(fake), torch.cat(parts))
    return [Number("clip_score", mean, std, "100 * max(cosine, 0), mean ± std over images")]


def _class_accuracy(_: Side, fake: Side, params: Mapping[str, Any]) -> list[Number]:
    if fake.labels is None:
        raise UserError("class accuracy needs the classes of the images, of which there are none")
    top1, top5 = class_accuracy(_points(fake), fake.labels)
    return [Number("top1_accuracy", top1), Number("top5_accuracy", top5)]


def _points(side: Side) -> Tensor:
    assert side.points is not None
    return side.points


CAPTIONS_AT_ONCE = 256
TORCH_FIDELITY_SEED = 2020
NEIGHBOURS = {"most_real": 10_000, "most_fake": 10_000}

METRICS: dict[str, Metric] = {
    "frechet": Metric(_frechet, None, STATISTICS, STATISTICS),
    "kernel": Metric(
        _kernel,
        None,
        POINTS,
        POINTS,
        {
            "subsets": 100,
            "size": 1000,
            "seed": TORCH_FIDELITY_SEED,
            "most_real": 50_000,
            "most_fake": 50_000,
        },
    ),
    "inception_score": Metric(
        _inception_score,
        "logits",
        NOTHING,
        POINTS,
        {"splits": 10, "seed": TORCH_FIDELITY_SEED, "most_fake": None},
    ),
    "precision_recall": Metric(
        _precision_recall, None, POINTS, POINTS, {"k": 3, **NEIGHBOURS}, ("k",)
    ),
    "density_coverage": Metric(
        _density_coverage, None, POINTS, POINTS, {"k": 5, **NEIGHBOURS}, ("k",)
    ),
    "clip_score": Metric(_clip_score, None, NOTHING, POINTS, {"most_fake": None}, conditions=True),
    "class_accuracy": Metric(
        _class_accuracy, "logits", NOTHING, POINTS, {"most_fake": None}, conditions=True
    ),
}
"""By the name that a protocol gives."""
