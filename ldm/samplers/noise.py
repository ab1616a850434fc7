"""Where the noise of sampling comes from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class SeededNoise:
    """Noise with one generator per sample, so that a seed names a picture.

    Sample k depends on ``seeds[k]`` only: not on the batch around it, nor on the device, since
    the numbers are drawn in float32 on the CPU and then moved.

    Args:
        seeds: one seed per sample of the batch.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]

    def __call__(self, like: Tensor) -> Tensor:
        """Draw the next standard normal tensor of the shape, device and dtype of ``like``.

        Raises:
            ValueError: if the batch size of ``like`` is not the number of seeds.
        """
        if len(like) != len(self._generators):
            raise ValueError(f"{len(self._generators)} seeds for a batch of {len(like)} samples")
        draws = [torch.randn(like.shape[1:], generator=g) for g in self._generators]
        return torch.stack(draws).to(like)
