"""From batch entries to what the denoiser is conditioned on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ldm.conditioners.base import Conditioner
from ldm.errors import DataError


class Conditioning(NamedTuple):
    """Encoded conditions of a batch; ``None`` where there is none.

    Attributes:
        context: tokens for cross-attention (B, L, D).
        concat: maps to be concatenated to the latent (B, C, h, w).
        y: class ids (B,) or vectors (B, D).
    """

    context: Tensor | None = None
    concat: Tensor | None = None
    y: Tensor | None = None


def encode_conditions(
    conditioners: Iterable[Conditioner],
    batch: Mapping[str, Any],
    drop: bool = False,
    generator: torch.Generator | None = None,
    autoencoder: nn.Module | None = None,
) -> Conditioning:
    """Run every conditioner and join the results by route.

    Contexts are joined along the sequence, maps along the channels; at most one conditioner may
    take the route "adm".

    Args:
        conditioners: the conditioners, in the order of concatenation.
        batch: batch entries; those named by the conditioners are read.
        drop: replace values by null values with each conditioner's ``drop_prob``, independently
            for every sample and conditioner, before encoding (training for guidance).
        generator: random generator of these replacements.
        autoencoder: lent to the conditioners that encode images with it.

    Raises:
        DataError: if a batch entry is absent or not a tensor.
    """
    parts: dict[str, list[Tensor]] = {"crossattn": [], "concat": [], "adm": []}
    for conditioner in conditioners:
        value = batch_value(conditioner, batch)
        if drop and conditioner.drop_prob > 0:
            value = drop_values(conditioner, value, generator)
        lent = (autoencoder,) if conditioner.needs_autoencoder else ()
        parts[conditioner.route].append(conditioner(value, *lent))
    if len(parts["adm"]) > 1:
        raise ValueError("at most one conditioner may have the route 'adm'")
    return Conditioning(
        context=torch.cat(parts["crossattn"], dim=1) if parts["crossattn"] else None,
        concat=torch.cat(parts["concat"], dim=1) if parts["concat"] else None,
        y=parts["adm"][0] if parts["adm"] else None,
    )


def drop_values(
    conditioner: Conditioner, value: Tensor, generator: torch.Generator | None
) -> Tensor:
    """Replace each sample of ``value`` (B, ...) by the null value with chance ``drop_prob``."""
    device = value.device if generator is None else generator.device
    chance = torch.rand(len(value), generator=generator, device=device)
    dropped = (chance < conditioner.drop_prob).to(value.device)
    null = conditioner.null(len(value), value)
    return torch.where(dropped.reshape(-1, *(1,) * (value.ndim - 1)), null, value)


def null_batch(conditioners: Iterable[Conditioner], batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """The batch entries of the unconditional half of guidance.

    Every condition becomes null, except maps that were never dropped in training (route "concat"
    and ``drop_prob`` 0, e.g. the masked image of inpainting): they stay in both halves.
    """
    entries = {}
    for conditioner in conditioners:
        value = batch_value(conditioner, batch)
        keep = conditioner.route == "concat" and conditioner.drop_prob == 0
        entries[conditioner.key] = value if keep else conditioner.null(len(value), value)
    return entries


def batch_value(conditioner: Conditioner, batch: Mapping[str, Any]) -> Tensor:
    """The batch entry of a conditioner, checked to be a tensor."""
    value = batch.get(conditioner.key)
    if value is None:
        raise DataError(
            f"{type(conditioner).__name__} needs the batch entry {conditioner.key!r}, "
            f"but the batch has only: {', '.join(map(str, batch)) or 'nothing'}"
        )
    if not isinstance(value, Tensor):
        raise DataError(
            f"batch entry {conditioner.key!r} must be a tensor for {type(conditioner).__name__}, "
            f"got {type(value).__name__}: tokenise or collate it before"
        )
    return value


def stack(first: Conditioning, second: Conditioning) -> Conditioning:
    """One conditioning of a doubled batch, [first, second]."""
    joined: list[Tensor | None] = []
    for name, a, b in zip(Conditioning._fields, first, second, strict=True):
        if (a is None) != (b is None) or (a is not None and b is not None and a.shape != b.shape):
            shapes = [None if v is None else tuple(v.shape) for v in (a, b)]
            raise ValueError(f"cannot stack conditions: {name} is {shapes[0]} and {shapes[1]}")
        joined.append(None if a is None or b is None else torch.cat([a, b]))
    return Conditioning(*joined)
