"""A Fréchet distance of few images together with its bias, its limit and its spread."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from ldm.evaluation.frechet import as_gaussian
from ldm.evaluation.protocol import SmallSamples
from ldm.evaluation.report import Measurement
from ldm.evaluation.small_samples import (
    FEWEST,
    bootstrap_interval,
    frechet_by_size,
    frechet_infinity,
)
from ldm.evaluation.statistics import FeatureStatistics


def with_bias(
    found: Measurement,
    real: FeatureStatistics,
    fake: Tensor,
    small: SmallSamples,
    seed: int,
) -> tuple[list[Measurement], dict[str, Any]]:
    """The distance with an interval, its limit, and what both were made from.

    Args:
        found: the distance.
        real: statistics of the real images.
        fake: features (N, D) of all fake ones.
        small: how much of it to show.
        seed: of the subsets.

    Returns:
        The measurements: the distance, and with enough images its limit; and an entry of the
        report: distances by subset size, the limit, the interval.
    """
    generator = torch.Generator().manual_seed(seed)
    target = as_gaussian(real)
    sizes = sorted({max(2, round(share * len(fake))) for share in small.sizes} | {len(fake)})
    by_size = frechet_by_size(target, fake, sizes, small.repeats, generator)
    interval = bootstrap_interval(target, fake, small.bootstrap, generator)
    words = ", ".join(f"{d.mean:.4g} of {d.size}" for d in by_size[:-1])
    notes = [found.note, f"of fewer images: {words}" if words else ""]
    distance = replace(
        found,
        interval=(interval.low, interval.high),
        note="; ".join(filter(None, notes)),
    )
    entry: dict[str, Any] = {"by_size": [asdict(d) for d in by_size], "bootstrap": asdict(interval)}
    if len(fake) < FEWEST:
        return [distance], entry
    limit = frechet_infinity(target, fake, generator, small.points)
    words = (
        f"extrapolated to infinitely many images from {small.points} subsets, ± its standard error"
    )
    if limit.value < 0:
        words += "; below 0: too few images for that, or no images of its own"
    how = found.how or {}
    extrapolated = replace(
        found,
        name=f"{found.name}_infinity",
        value=limit.value,
        std=limit.standard_error,
        note="; ".join(filter(None, [found.note, words])),
        how={**how, "params": {**how.get("params", {}), "points": small.points}},
    )
    return [distance, extrapolated], {**entry, "limit": asdict(limit)}
