"""Posteriors as tensors that can be kept, and which autoencoder they are of."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ldm.autoencoders.posterior import Deterministic, DiagonalGaussian, Posterior
from ldm.errors import ConfigError

MOMENTS, LATENTS = "moments", "latents"
"""Batch entries: mean and log-variance (B, 2C, h, w); latents without chance (B, C, h, w)."""


def to_entry(posterior: Posterior) -> tuple[str, Tensor]:
    """All that a posterior says, as a batch entry: its name and its value.

    Raises:
        ConfigError: this kind of posterior cannot be kept.
    """
    if isinstance(posterior, DiagonalGaussian):
        return MOMENTS, torch.cat([posterior.mean, posterior.logvar], dim=1)
    if isinstance(posterior, Deterministic):
        return LATENTS, posterior.z
    raise ConfigError(
        f"the autoencoder gives a {type(posterior).__name__}: only DiagonalGaussian and "
        "Deterministic posteriors can be cached"
    )


def from_batch(batch: Mapping[str, Any]) -> Posterior | None:
    """The posterior that a batch brings in place of images, in float32; None: it brings none."""
    if MOMENTS in batch:
        return DiagonalGaussian(batch[MOMENTS].float())
    if LATENTS in batch:
        return Deterministic(batch[LATENTS].float())
    return None


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and values of the weights of an autoencoder."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
