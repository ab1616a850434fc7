"""The latent scale factor, measured on training data (paper, appendix G)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ldm.diffusion.scale import latent_moments, scale_from_moments
from ldm.layers.draws import BatchGenerator
from ldm.training.data_order import Split
from ldm.training.seeding import key

logger = logging.getLogger(__name__)


def measure_scale_factor(task: Any, samples: int) -> float:
    """Set ``task.model.scale_factor`` to 1 / std of unscaled latents of the training set.

    The original takes the first batch of the first process; here every process contributes its
    share of the first batches of the first epoch and all end with the same number, however many
    they are. Checkpoints then carry it.

    Args:
        task: a Lightning module with a ``LatentDiffusion`` as ``model``, in a running trainer.
        samples: images to look at, over all processes: as many whole batches as hold them.

    Returns:
        The factor.
    """
    moments = latent_moments(_latents(task, samples))
    # float32 sums of 1e5 values would do; float64 is not to be had on every accelerator.
    gathered = task.all_gather(moments.to(task.device, _widest(task.device)))
    factor = scale_from_moments(gathered.cpu().double().reshape(-1, 3).sum(0))
    task.model.set_scale_factor(factor)
    if task.global_rank == 0:
        logger.info("latent scale factor %.5f, measured on the training set", factor)
    return factor


def _latents(task: Any, samples: int) -> Iterator[Tensor]:
    trainer, seen = task.trainer, 0
    split = Split(trainer.global_rank, trainer.world_size, trainer.accumulate_grad_batches)
    for index, batch in enumerate(trainer.datamodule.train_dataloader()):
        number, part = divmod(index, split.parts)
        if part == 0 and seen >= samples:
            return
        tensors = {k: v.to(task.device) for k, v in batch.items() if isinstance(v, Tensor)}
        size = len(next(iter(tensors.values())))
        seen += size * split.world
        total = size * split.world * split.parts
        rows = split.rows(total, part)
        own = key("scale factor", number, part, split.rank)
        generator = BatchGenerator(
            task.device, key("scale factor", number), own, rows.start, rows.stop, total
        )
        yield task.model.encode_batch_unscaled(tensors, generator)


def _widest(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64
