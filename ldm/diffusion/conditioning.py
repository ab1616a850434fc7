"""From batch entries to what the denoiser is conditioned on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ldm.conditioners.base import Conditioner
from ldm.errors import ConfigError, DataError
from ldm.layers.rng import draw_uniform


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
        DataError: if a batch entry is absent, not a tensor, or does not fit to the others.
    """
    parts: dict[str, list[Tensor]] = {"crossattn": [], "concat": [], "adm": []}
    keys: dict[str, list[str]] = {route: [] for route in parts}
    for conditioner in conditioners:
        value = batch_value(conditioner, batch)
        if drop and conditioner.drop_prob > 0:
            value = drop_values(conditioner, value, generator)
        lent = (autoencoder,) if conditioner.needs_autoencoder else ()
        parts[conditioner.route].append(conditioner(value, *lent))
        keys[conditioner.route].append(conditioner.key)
    for route, axes in (("crossattn", (0, 2)), ("concat", (0, 2, 3))):
        _check_sizes(keys[route], parts[route], axes)
    if len(parts["adm"]) > 1:
        raise ValueError("at most one conditioner may have the route 'adm'")
    return Conditioning(
        context=torch.cat(parts["crossattn"], dim=1) if parts["crossattn"] else None,
        concat=torch.cat(parts["concat"], dim=1) if parts["concat"] else None,
        y=parts["adm"][0] if parts["adm"] else None,
    )


def check_batch(conditioners: Iterable[Conditioner], batch: Mapping[str, Any]) -> None:
    """Refuse batch entries that their conditioners would refuse, e.g. with unknown class ids.

    For batches that still are on the CPU: on an accelerator, training does not look at the numbers,
    see :func:`ldm.conditioners.base.readable`.

    Raises:
        DataError: an entry is absent, no tensor, or its conditioner cannot take it.
    """
    for conditioner in conditioners:
        conditioner.check(batch_value(conditioner, batch))


def check_fit(
    conditioners: Iterable[Conditioner], denoiser: nn.Module, latent_channels: int
) -> None:
    """Refuse conditioners whose outputs the denoiser cannot take.

    A part that does not tell its sizes is not checked: a denoiser its ``context_dim``,
    ``in_channels`` and ``out_channels``, a conditioner its ``dim`` (route crossattn) or
    ``channels`` (concat).

    Args:
        conditioners: the conditioners of a diffusion model.
        denoiser: its network.
        latent_channels: channels of its latents, which are also those of a conditioner that
            encodes images.

    Raises:
        ConfigError: it names the conditioners and both numbers.
    """
    maps = []
    for conditioner in conditioners:
        _check_contract(conditioner)
        if conditioner.route == "crossattn":
            _check_width(conditioner, denoiser)
        elif conditioner.route == "concat":
            maps.append(conditioner)
    _check_channels(maps, denoiser, latent_channels)
    given = getattr(denoiser, "out_channels", latent_channels)
    if given != latent_channels:
        raise ConfigError(
            f"the denoiser gives {given} channels (out_channels), the latents have "
            f"{latent_channels}"
        )


def _check_contract(conditioner: nn.Module) -> None:
    """Refuse a class of a user's own that lacks what every conditioner has."""
    names = ("key", "route", "drop_prob", "frozen", "needs_autoencoder", "check")
    lacking = [name for name in names if not hasattr(conditioner, name)]
    if lacking:
        raise ConfigError(
            f"{type(conditioner).__name__} is no conditioner, it has no {', '.join(lacking)}: "
            "derive its class from ldm.conditioners.Conditioner"
        )


def check_all_given(conditioners: Iterable[Conditioner], denoiser: Any) -> None:
    """Refuse a denoiser that waits for a condition which no conditioner makes.

    Who calls a model with conditions of their own needs no conditioners; a training does.

    Raises:
        ConfigError: it names what the denoiser waits for.
    """
    routes = {conditioner.route for conditioner in conditioners}
    for route, size in (("crossattn", "context_dim"), ("adm", "num_classes")):
        if getattr(denoiser, size, None) is not None and route not in routes:
            raise ConfigError(
                f"the denoiser has {size}={getattr(denoiser, size)}, but no conditioner gives it "
                f"anything: add one to model.params.conditioners, or set {size} to null"
            )


def _check_width(conditioner: Conditioner, denoiser: Any) -> None:
    dim = getattr(conditioner, "dim", None)
    if dim is None or not hasattr(denoiser, "context_dim") or dim == denoiser.context_dim:
        return
    width = denoiser.context_dim
    raise ConfigError(
        f"{_name(conditioner)} gives vectors of width {dim}, but the denoiser "
        + ("takes no context" if width is None else f"has context_dim={width}")
    )


def _check_channels(maps: list[Conditioner], denoiser: Any, latent_channels: int) -> None:
    counts = {
        _name(c): getattr(c, "channels", latent_channels if c.needs_autoencoder else None)
        for c in maps
    }
    known = [count for count in counts.values() if count is not None]
    wanted = getattr(denoiser, "in_channels", None)
    if wanted in (None, latent_channels + sum(known)) or len(known) < len(maps):
        return
    listed = "".join(f" + {count} of {name}" for name, count in counts.items())
    raise ConfigError(
        f"the denoiser has in_channels={wanted}, but gets {latent_channels} of the latent{listed}"
    )


def _name(conditioner: Conditioner) -> str:
    return f"{type(conditioner).__name__} ({conditioner.key!r})"


def drop_values(
    conditioner: Conditioner, value: Tensor, generator: torch.Generator | None
) -> Tensor:
    """Replace each sample of ``value`` (B, ...) by the null value with chance ``drop_prob``."""
    chance = draw_uniform((len(value),), generator, value.device)
    dropped = chance < conditioner.drop_prob
    null = conditioner.null(len(value), value)
    if null.shape != value.shape:
        raise DataError(
            f"{conditioner.key!r} has shape {(*value.shape,)}, its value for no condition "
            f"{(*null.shape,)}: give all {(*null.shape[1:],)}, e.g. by the conditioner's tokenizer"
        )
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


def _check_sizes(keys: list[str], values: list[Tensor], axes: tuple[int, ...]) -> None:
    """Refuse encoded conditions that cannot be joined, along the other axis."""
    for key, value in zip(keys, values, strict=True):
        sizes = [tuple(v.shape[axis] for axis in axes) for v in (values[0], value)]
        if value.ndim == values[0].ndim and sizes[0] != sizes[1]:
            raise DataError(
                f"conditions {keys[0]!r} and {key!r} do not fit together: encoded, they are "
                f"{tuple(values[0].shape)} and {tuple(value.shape)}"
            )


def stack(first: Conditioning, second: Conditioning) -> Conditioning:
    """One conditioning of a doubled batch, [first, second]."""
    joined: list[Tensor | None] = []
    for name, a, b in zip(Conditioning._fields, first, second, strict=True):
        if (a is None) != (b is None) or (a is not None and b is not None and a.shape != b.shape):
            shapes = [None if v is None else tuple(v.shape) for v in (a, b)]
            raise ValueError(f"cannot stack conditions: {name} is {shapes[0]} and {shapes[1]}")
        joined.append(None if a is None or b is None else torch.cat([a, b]))
    return Conditioning(*joined)
