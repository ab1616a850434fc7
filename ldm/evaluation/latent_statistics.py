"""What the latents of a first stage look like, gathered batch by batch in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def draw(posterior: Any, seeds: Sequence[int]) -> Tensor:
    """One latent per image (B, C, h, w) that depends on the seed of its image only.

    Not on the batch around it, nor on the device: the numbers are drawn on the CPU.

    Args:
        posterior: with ``mean`` and ``std`` (a Gaussian), else with ``mode()`` (no randomness).
        seeds: one per image.
    """
    if not hasattr(posterior, "std"):
        z: Tensor = posterior.mode()
        return z
    mean: Tensor = posterior.mean
    if len(mean) != len(seeds):
        raise ValueError(f"{len(seeds)} seeds for a batch of {len(mean)} images")
    generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
    noise = torch.stack([torch.randn(mean.shape[1:], generator=g) for g in generators])
    return mean + posterior.std * noise.to(mean)


def kl_map(posterior: Any) -> Tensor | None:
    """KL divergence of each entry from N(0, 1) in nats, (B, C, h, w) float64 on the CPU.

    None if the posterior is no Gaussian.
    """
    if not hasattr(posterior, "logvar"):
        return None
    mean, logvar = posterior.mean.detach().cpu().double(), posterior.logvar.detach().cpu().double()
    divergence: Tensor = 0.5 * (mean.square() + logvar.exp() - 1 - logvar)
    return divergence


class LatentStatistics:
    """Streaming statistics per channel and over all, of latents (B, C, h, w).

    Images of which a latent is not finite are counted in ``nonfinite`` and left out of the rest.

    Args:
        channels: C.

    Attributes:
        images: finite images seen.
        nonfinite: images with NaN or infinite latents.
        minimum: of each channel, (C,).
        maximum: of each channel, (C,).
    """

    def __init__(self, channels: int) -> None:
        self.images = 0
        self.nonfinite = 0
        self.count = 0
        self.minimum = torch.full((channels,), torch.inf, dtype=torch.float64)
        self.maximum = torch.full((channels,), -torch.inf, dtype=torch.float64)
        self._mean = torch.zeros(channels, dtype=torch.float64)
        self._squares = torch.zeros(channels, dtype=torch.float64)  # about the mean
        self._kl: Tensor | None = None

    def update(self, z: Tensor, kl: Tensor | None = None) -> LatentStatistics:
        """Add latents (B, C, h, w) and, for Gaussians, their ``kl_map``; returns itself."""
        channels = len(self.minimum)
        if z.ndim != 4 or z.shape[1] != channels:
            raise ValueError(f"latents {tuple(z.shape)} are not (B, {channels}, h, w)")
        z = z.detach().cpu().double()  # in this order: not every accelerator has float64
        finite = z.flatten(1).isfinite().all(1)
        self.nonfinite += int((~finite).sum())
        self.images += int(finite.sum())
        values = z[finite].transpose(0, 1).flatten(1)
        if values.shape[1] == 0:
            return self
        self.minimum = self.minimum.minimum(values.amin(1))
        self.maximum = self.maximum.maximum(values.amax(1))
        self._add(values)
        if kl is not None:
            total = kl.cpu().double()[finite].sum((0, 2, 3))
            self._kl = total if self._kl is None else self._kl + total
        return self

    def _add(self, values: Tensor) -> None:
        """Merge mean and scatter of values (C, N) (Chan et al. 1983)."""
        number = values.shape[1]
        mean = values.mean(1)
        total = self.count + number
        delta = mean - self._mean
        within = (values - mean[:, None]).square().sum(1)
        self._squares = self._squares + within + delta.square() * (self.count * number / total)
        self._mean = self._mean + delta * (number / total)
        self.count = total

    @property
    def mean(self) -> Tensor:
        """Mean of each channel, (C,)."""
        self._check()
        return self._mean

    @property
    def std(self) -> Tensor:
        """Unbiased standard deviation of each channel, (C,)."""
        self._check()
        return (self._squares / (self.count - 1)).sqrt()

    @property
    def kl(self) -> Tensor | None:
        """Mean KL per latent dimension of each channel in nats, (C,); None for no Gaussian."""
        self._check()
        return None if self._kl is None else self._kl / self.count

    @property
    def overall_mean(self) -> float:
        """Mean over all elements."""
        return float(self.mean.mean())

    @property
    def overall_std(self) -> float:
        """Unbiased standard deviation over all elements; its inverse is the scale factor."""
        mean = self.mean
        between = (mean - mean.mean()).square().sum() * self.count
        return float(((self._squares.sum() + between) / (self.count * len(mean) - 1)).sqrt())

    def _check(self) -> None:
        if self.count < 2:
            raise ValueError(f"statistics need two finite latents or more, there are {self.count}")
