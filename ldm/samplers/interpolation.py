"""Between two samples: noise on the sphere, conditions on a line."""

from __future__ import annotations

import torch
from torch import Tensor

from ldm.diffusion.conditioning import Conditioning
from ldm.errors import DataError

NEARLY_PARALLEL = 1e-3
"""Sine of an angle below which an arc is as good as a line."""
TINY = 1e-30


def slerp(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """Spherical interpolation between samples of two batches (B, ...), sample by sample.

    The direction follows the great circle, the norm a line. So what lies between two draws of noise
    is as long as noise, which a straight line is not: half-way it is shorter by the root of two.

    Args:
        a: start, returned for weight 0.
        b: end, returned for weight 1.
        weight: share of the way.

    Raises:
        ValueError: the shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"cannot interpolate between shapes {(*a.shape,)} and {(*b.shape,)}")
    first, second = a.flatten(1).double(), b.flatten(1).double()
    norms = [part.norm(dim=1, keepdim=True).clamp_min(TINY) for part in (first, second)]
    cosine = ((first / norms[0]) * (second / norms[1])).sum(1, keepdim=True).clamp(-1, 1)
    angle = cosine.arccos()
    shares = [((1 - weight) * angle).sin() / angle.sin(), (weight * angle).sin() / angle.sin()]
    line = (1 - weight) * norms[0] + weight * norms[1]
    arc = line * (shares[0] * first / norms[0] + shares[1] * second / norms[1])
    straight = (1 - weight) * first + weight * second
    curved = (angle.sin() > NEARLY_PARALLEL) & (torch.minimum(*norms) > 2 * TINY)
    result = torch.where(curved, arc, straight)
    return result.reshape(a.shape).to(a.dtype)


def interpolate_conditions(a: Conditioning, b: Conditioning, weight: float) -> Conditioning:
    """Conditions between two, on a line: contexts, maps and vectors.

    Raises:
        DataError: they have other kinds or shapes, or are class ids of the route "adm", between
            which there is nothing.
    """
    return Conditioning(
        context=_between("context", a.context, b.context, weight),
        concat=_between("concat", a.concat, b.concat, weight),
        y=_between("y", a.y, b.y, weight),
    )


def _between(name: str, a: Tensor | None, b: Tensor | None, weight: float) -> Tensor | None:
    if a is None or b is None:
        if a is not b:
            raise DataError(f"cannot interpolate: only one side has conditions of kind {name!r}")
        return None
    if a.shape != b.shape:
        raise DataError(
            f"cannot interpolate {name!r} between shapes {(*a.shape,)} and {(*b.shape,)}"
        )
    if not a.is_floating_point():
        if torch.equal(a, b):
            return a
        raise DataError(
            "class ids of the route 'adm' cannot be interpolated: the denoiser knows nothing "
            "between two of them"
        )
    return torch.lerp(a, b, weight)
