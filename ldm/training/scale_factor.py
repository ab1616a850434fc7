"""The latent scale factor, measured on training data (paper, appendix G)."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ldm.diffusion.scale import latent_moments, scale_from_moments

logger = logging.getLogger(__name__)


def measure_scale_factor(task: Any, samples: int) -> float:
    """Set ``task.model.scale_factor`` to 1 / std of unscaled latents of the training set.

    The original takes the first batch of the first process; here every process contributes its
    share of ``samples`` images and all end with the same number, which checkpoints then carry.

    Args:
        task: a Lightning module with a ``LatentDiffusion`` as ``model``, in a running trainer.
        samples: images to look at, over all processes.

    Returns:
        The factor.
    """
    moments = latent_moments(_latents(task, math.ceil(samples / task.trainer.world_size)))
    # float32 sums of 1e5 values would do; float64 is not to be had on every accelerator.
    gathered = task.all_gather(moments.to(task.device, _widest(task.device)))
    factor = scale_from_moments(gathered.cpu().double().reshape(-1, 3).sum(0))
    task.model.set_scale_factor(factor)
    logger.info("latent scale factor %.5f, measured on the training set", factor)
    return factor


def _latents(task: Any, share: int) -> Iterator[Tensor]:
    generator = torch.Generator(task.device).manual_seed(task.global_rank)
    seen = 0
    for batch in task.trainer.datamodule.train_dataloader():
        latents = task.model.encode_unscaled(batch["image"].to(task.device), generator)
        yield latents
        seen += len(latents)
        if seen >= share:
            return


def _widest(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64
