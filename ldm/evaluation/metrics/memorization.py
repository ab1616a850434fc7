"""Are samples copies of training images? Nearest neighbours in feature space."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Nearest(NamedTuple):
    """The nearest reference of each query.

    Attributes:
        indices: rows of the references (Q,), int64.
        distances: Euclidean, (Q,), float64.
    """

    indices: Tensor
    distances: Tensor


@dataclass(frozen=True)
class Copies:
    """How near samples lie to training images, beside held-out real images.

    Attributes:
        share: of the samples that lie as near to a training image as the nearest 1 % of the
            held-out images do. 1 for copies, 0.01 for samples as new as real images, with 1000 of
            each up to 0.02 by chance. More is a reason to look at the pairs: they are copies, or
            samples of a few simple kinds (new scenes of one object only, judged in pixels among
            those of 1 to 3, have 0.04). It says nothing about quality: noise has 0.
        threshold: the distance that is "as near".
        samples: median distance of the samples to their nearest training image; well below
            ``held_out`` for copies, well above it for bad samples.
        held_out: the same of the held-out images.
    """

    share: float
    threshold: float
    samples: float
    held_out: float


def copies(samples: Tensor, held_out: Tensor, train: Tensor, chunk: int = 2048) -> Copies:
    """Measure memorisation in features (or in pixels, flattened).

    Args:
        samples: features (M, D).
        held_out: of real images that were not trained on, (N, D); some hundred at least, because
            the nearest 1 % of them set the threshold.
        train: of all training images, (L, D).
        chunk: rows of a block of distances.

    Raises:
        ValueError: shapes do not fit, or a set is empty.
    """
    distances = nearest(samples, train, chunk).distances
    reference = nearest(held_out, train, chunk).distances
    rank = max(math.ceil(len(reference) / 100), 1)
    threshold = reference.kthvalue(rank).values
    return Copies(
        share=float((distances <= threshold).double().mean()),
        threshold=float(threshold),
        samples=float(distances.median()),
        held_out=float(reference.median()),
    )


def nearest(queries: Tensor, references: Tensor, chunk: int = 2048) -> Nearest:
    """The nearest reference of each query, by Euclidean distance.

    Blocks of ``chunk`` x ``chunk`` distances are computed at a time. Of references that are equally
    near, up to rounding, any may be taken; the distance itself is exact: 0 for a copy.

    Args:
        queries: (Q, D).
        references: (N, D).
        chunk: rows of a block.

    Raises:
        ValueError: shapes do not fit, or a set is empty.
    """
    if queries.ndim != 2 or references.ndim != 2 or queries.shape[1] != references.shape[1]:
        shapes = f"{tuple(queries.shape)} and references {tuple(references.shape)}"
        raise ValueError(f"queries {shapes} do not fit")
    if not len(queries) or not len(references):
        raise ValueError(f"{len(queries)} queries and {len(references)} references: none is near")
    # Centred, so that differences survive the expansion of the square.
    centre = references.double().mean(0)
    indices = [
        _nearest_rows(rows.double() - centre, references, centre, chunk)
        for rows in queries.split(chunk)
    ]
    found = torch.cat(indices)
    differences = [
        (rows.double() - references[near].double()).norm(dim=1)
        for rows, near in zip(queries.split(chunk), found.split(chunk), strict=True)
    ]
    return Nearest(found, torch.cat(differences))


def _nearest_rows(queries: Tensor, references: Tensor, centre: Tensor, chunk: int) -> Tensor:
    """Row of the nearest reference of centred queries (Q, D), (Q,)."""
    best = queries.new_full((len(queries),), torch.inf)
    indices = torch.zeros(len(queries), dtype=torch.int64, device=queries.device)
    for start in range(0, len(references), chunk):
        rows = references[start : start + chunk].double() - centre
        # The square without the query's own norm, which is the same for all references.
        squares = rows.square().sum(1) - 2 * queries @ rows.T
        least = squares.min(1)
        nearer = least.values < best
        best = torch.where(nearer, least.values, best)
        indices = torch.where(nearer, least.indices + start, indices)
    return indices
