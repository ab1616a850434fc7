"""Whether a latent cache is one of the autoencoder that a run trains with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ldm.autoencoders.stored import fingerprint
from ldm.data.latent_cache import CachedLatents
from ldm.diffusion.latent import LatentDiffusion
from ldm.errors import DataError

_PREFIX = "model.autoencoder."


def check_takes_latents(task: Any, data: Any) -> None:
    """Refuse a latent cache as data of a task that needs images.

    Raises:
        DataError: it does.
    """
    for cache in _caches(data):
        if not isinstance(getattr(task, "model", None), LatentDiffusion):
            raise DataError(
                f"latent cache '{cache.root}' holds latents, {type(task).__name__} trains on "
                "images: it is for LatentDiffusionTask"
            )


def check_autoencoder(task: Any, data: Any, saved: Mapping[str, Tensor] | None = None) -> None:
    """Refuse a latent cache that another autoencoder made.

    Args:
        task: the task, with the weights that it begins with.
        data: the data module.
        saved: those of the checkpoint that it resumes from instead. If they are not in float32
            (trainer.precision bf16-true), they are no longer those that made the cache, and only
            the key that the config names ties the run to it.

    Raises:
        DataError: it is stale.
    """
    caches = list(_caches(data))
    if not caches:
        return
    weights = task.model.autoencoder.state_dict()
    if saved is not None:
        weights = {k.removeprefix(_PREFIX): v for k, v in saved.items() if k.startswith(_PREFIX)}
        if any(v.is_floating_point() and v.dtype != torch.float32 for v in weights.values()):
            return
    found = fingerprint(weights)
    for cache in caches:
        made_by = cache.manifest.recipe.autoencoder
        if made_by != found:
            raise DataError(
                f"latent cache '{cache.root}' is stale: autoencoder {made_by[:12]} made it, the "
                f"model has {found[:12]}; make it anew with scripts/cache_latents.py, or name the "
                "autoencoder that made it"
            )


def _caches(data: Any) -> Iterator[CachedLatents]:
    for name in ("train", "validation"):
        dataset = getattr(data, name, None)
        if isinstance(dataset, CachedLatents):
            yield dataset
