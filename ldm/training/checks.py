"""What is asked of a run before it writes anything: seed, limits, data, batches, first stage.

The weights that a run began with may have moved when it is resumed, not changed; a latent cache
must be one of the autoencoder that the run trains with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from ldm.autoencoders.base import fingerprint
from ldm.config.paths import failure
from ldm.data.latents.dataset import CachedLatents
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.errors import ConfigError, DataError, UserError
from ldm.files import file_sha256
from ldm.training.run_folder import RunFolder


def check_inputs(
    folder: RunFolder, present: Mapping[str, str], changed: Mapping[str, tuple[Any, Any]]
) -> dict[str, dict[str, str]]:
    """Refuse a first stage that is not the one a run began with, whose weights it goes on with.

    Args:
        folder: the run's folder.
        present: SHA-256 of the weights that the present config names, by path.
        changed: by key, the value in the run's config and the present one.

    Returns:
        By those keys that name another place of the same file: its path and SHA-256.

    Raises:
        ConfigError: it names both.
    """
    inputs = folder.status().get("inputs")
    if inputs is None:  # status.json was lost: nobody knows
        return {}
    for path, digest in present.items():
        if digest not in inputs.values():
            raise _another(folder, ", ".join(inputs) or "no weights of a file", path)
    moved = {}
    for key, (before, now) in changed.items():
        for old, new in _files(before, now, inputs):
            if not new.is_file():
                raise ConfigError(f"{key}={now}: {new} does not exist; the run began with {old}")
            if file_sha256(new) != inputs[old]:
                raise _another(folder, old, f"{new} ({key}={now})")
            moved[key] = {str(new): inputs[old]}
    return moved


def _files(before: Any, now: Any, inputs: Mapping[str, str]) -> Iterator[tuple[str, Path]]:
    """Each input that a value of a config names, itself or by its folder, and what it names now."""
    if not (isinstance(before, str) and isinstance(now, str)):
        return
    for file in inputs:
        if Path(before) in (Path(file), *Path(file).parents[:2]):  # RUN/checkpoints/last.ckpt
            yield file, Path(now) / Path(file).relative_to(before)


def _another(folder: RunFolder, before: str, now: str) -> ConfigError:
    return ConfigError(
        f"{folder.path} began with {before}, whose weights are in its checkpoints; {now} holds "
        f"others: continue with --resume {folder.path} alone, or start another run with name=..."
    )


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
            (trainer.precision 64-true), they are no longer those that made the cache, and only
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


def check_clip(limit: Any) -> float | None:
    """A limit of the norm of gradients; None: there is none.

    Raises:
        ConfigError: it is no number above 0.
    """
    wrong = isinstance(limit, bool) or not isinstance(limit, (int, float))
    if limit is not None and (wrong or not limit > 0):
        raise ConfigError(f"gradient_clip: expected a number above 0 or null, got {limit!r}")
    return limit


def check_built(task: Any, data: Any) -> None:
    """Refuse what is no task, or no data module.

    Raises:
        ConfigError: it names the node and what that builds.
    """
    if not isinstance(task, pl.LightningModule):
        raise ConfigError(
            f"task: it builds a {type(task).__name__}, not a task such as "
            "ldm.training.LatentDiffusionTask"
        )
    model = getattr(task, "model", task)
    if not isinstance(model, torch.nn.Module):
        raise ConfigError(f"task: its model is a {type(model).__name__}, not a network")
    if not isinstance(data, pl.LightningDataModule):
        raise ConfigError(
            f"data: it builds a {type(data).__name__}, not a data module such as "
            "ldm.training.DataModule"
        )


def check_optimizers(task: Any) -> None:
    """Make the optimisers of a task once, to see that it works before a run begins.

    Raises:
        ConfigError: it does not.
    """
    try:
        task.configure_optimizers()
    except UserError:
        raise
    except Exception as error:  # of a task of the user's own
        raise ConfigError(f"task: its optimisers cannot be made: {failure(error)}") from error


def check_data(task: Any, data: Any) -> None:
    """Read one training item and let the task look at it.

    Raises:
        UserError: the item cannot be read, or the task cannot take it.
    """
    check_takes_latents(task, data)
    stream = isinstance(data.train, IterableDataset)
    if stream or hasattr(data.train, "__getitem__"):
        try:
            item = next(iter(data.train)) if stream else data.train[0]
        except UserError:
            raise
        except StopIteration:
            raise DataError("the training set is empty: data.params.train yields no item") from None
        except Exception as error:  # of parts that do not fit each other, or a user's own
            raise ConfigError(
                f"data.params.train: its first item cannot be made: {failure(error)}"
            ) from error
        if hasattr(task, "check_item"):
            task.check_item(item)


def check_split(trainer: pl.Trainer, task: Any, data: Any) -> None:
    """Refuse a batch that cannot be shared out evenly, or that is larger than the data.

    Raises:
        ConfigError: it cannot.
        DataError: it is.
    """
    accumulated = trainer.accumulate_grad_batches * getattr(task, "micro_batches", 1)
    if hasattr(data, "batch_size"):
        size_of_part(data.batch_size, trainer.world_size * accumulated)
    if hasattr(data, "batches_in"):
        data.batches_in(0)


def size_of_part(batch_size: int, parts: int) -> int:
    """Samples of a batch that a device works on at a time.

    Raises:
        ConfigError: the batch cannot be shared out evenly.
    """
    if parts < 1:
        raise ConfigError("trainer.accumulate_grad_batches: expected 1 or more parts of a batch")
    if batch_size % parts:
        raise ConfigError(
            f"data.params.batch_size {batch_size} is the batch of one optimiser step; it must be "
            f"divisible by trainer.devices x num_nodes x accumulate_grad_batches = {parts}"
        )
    return batch_size // parts
