"""How far to trust a Fréchet distance of few samples: its bias, its limit, its spread.

The covariance of N samples lies the further from that of the population the smaller N is, so the
distance is biased upwards, about in proportion to 1/N, and by how much depends on the model: of two
models the better one may have the larger distance at small N (Chong & Forsyth 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from ldm.evaluation.metrics.fid import FeatureStatistics, Gaussian, as_gaussian

FEWEST = 20
"""Samples without which nothing can be said about a limit."""


@dataclass(frozen=True)
class SizedDistance:
    """Distances of random subsets of one size.

    Attributes:
        size: samples in a subset.
        mean: of the distances.
        std: their standard deviation (divisor n - 1); 0 for one subset. The subsets overlap, so it
            falls short of that of independent sets as the size nears that of the whole.
    """

    size: int
    mean: float
    std: float


@dataclass(frozen=True)
class FrechetLimit:
    """Distance extrapolated to infinitely many fake samples.

    Attributes:
        value: intercept of the line; rounding and chance may take it below 0.
        standard_error: of the intercept, by the points' scatter about the line. The subsets share
            samples: what another set of samples would change is not in it.
        sizes: subset sizes.
        distances: what was measured at each.
    """

    value: float
    standard_error: float
    sizes: tuple[int, ...]
    distances: tuple[float, ...]


@dataclass(frozen=True)
class BootstrapInterval:
    """Where distances of other sets of as many fake samples would lie.

    Attributes:
        value: the distance itself.
        low: lower end; may be below 0, where no distance is.
        high: upper end.
        std: standard deviation of the distance.
        level: share of the sets within.
        repeats: resampled sets.
    """

    value: float
    low: float
    high: float
    std: float
    level: float
    repeats: int


def frechet_by_size(
    real: FeatureStatistics | Gaussian,
    fake: Tensor,
    sizes: Sequence[int],
    repeats: int,
    generator: torch.Generator,
) -> list[SizedDistance]:
    """Distances of random subsets of the fake samples.

    Args:
        real: what they are compared with, always whole.
        fake: features (N, D).
        sizes: of the subsets, each between 2 and N; at N there is one subset only.
        repeats: subsets of each size.
        generator: on the CPU.

    Raises:
        ValueError: a size or the repeats do not fit.
    """
    if repeats < 1 or not all(2 <= size <= len(fake) for size in sizes):
        raise ValueError(f"sizes {list(sizes)}, {repeats} repeats: 2 to {len(fake)}, 1 or more")
    target, found = as_gaussian(real), []
    for size in sizes:
        count = 1 if size == len(fake) else repeats
        distances = [_subset(target, fake, size, generator) for _ in range(count)]
        spread = float(np.std(distances, ddof=1)) if count > 1 else 0.0
        found.append(SizedDistance(size, float(np.mean(distances)), spread))
    return found


def frechet_infinity(
    real: FeatureStatistics | Gaussian,
    fake: Tensor,
    generator: torch.Generator,
    points: int = 15,
    smallest: int | None = None,
) -> FrechetLimit:
    """Fit a line in 1/N to distances of random subsets, and read it at 0 (Chong & Forsyth 2020).

    The sizes are equally spaced up to all samples. The bias is a line in 1/N once there are several
    times more samples than features; below that the limit still says more than the distance.

    Args:
        real: what they are compared with, always whole.
        fake: features (N, D).
        generator: on the CPU.
        points: subset sizes, 15 in the paper.
        smallest: subset; None = N // 10, as in the paper (5000 of 50,000).

    Raises:
        ValueError: there are too few samples or points.
    """
    n = len(fake)
    smallest = max(n // 10, 2) if smallest is None else smallest
    if n < FEWEST or points < 3 or not 2 <= smallest <= n // 2:
        raise ValueError(
            f"a limit from {points} subsets of {smallest} to {n} samples: 3 subsets and {FEWEST} "
            "samples are the least, and the smallest subset has 2 to half of them"
        )
    sizes = np.unique(np.linspace(smallest, n, points).astype(int)).tolist()
    target = as_gaussian(real)
    distances = [_subset(target, fake, size, generator) for size in sizes]
    line = stats.linregress([1 / size for size in sizes], distances)
    return FrechetLimit(
        float(line.intercept), float(line.intercept_stderr), tuple(sizes), tuple(distances)
    )


def bootstrap_interval(
    real: FeatureStatistics | Gaussian,
    fake: Tensor,
    repeats: int,
    generator: torch.Generator,
    level: float = 0.95,
) -> BootstrapInterval:
    """Resample the fake samples with replacement, and see how the distance changes.

    A resampled set holds fewer different samples than the original, so its distance is biased once
    more, and the plain percentile interval need not even hold the distance itself. What the
    resampled distances say is how far they scatter: the interval is that of their deviations from
    their mean, around the distance. So it is an interval at this N, and the bias of this N is no
    part of it; see ``frechet_infinity``. That the real samples are a sample too is not in it.

    Args:
        real: what they are compared with, always whole.
        fake: features (N, D).
        repeats: resampled sets; each costs as much as the distance.
        generator: on the CPU.
        level: share of sets that the interval is to hold.

    Raises:
        ValueError: fewer than two samples or repeats, or the level is not between 0 and 1.
    """
    n = len(fake)
    if n < 2 or repeats < 2 or not 0 < level < 1:
        raise ValueError(f"{n} samples, {repeats} repeats, level {level}: 2, 2, between 0 and 1")
    target = as_gaussian(real)
    value = target.distance(Gaussian.from_features(fake))
    rows = (torch.randint(n, (n,), generator=generator) for _ in range(repeats))
    resampled = [target.distance(Gaussian.from_features(fake, part)) for part in rows]
    deviations = torch.tensor(resampled, dtype=torch.float64) - float(np.mean(resampled))
    tail = (1 - level) / 2
    low, high = deviations.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return BootstrapInterval(
        value, value + low, value + high, float(deviations.std()), level, repeats
    )


def _subset(real: Gaussian, fake: Tensor, size: int, generator: torch.Generator) -> float:
    """Distance of a random subset."""
    rows = torch.randperm(len(fake), generator=generator)[:size]
    return real.distance(Gaussian.from_features(fake, rows))
