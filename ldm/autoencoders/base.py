"""The contract that all first stages keep: what they are, and what they say about latents.

An encoder answers with a ``Posterior`` q(z | x): normal with independent entries (KL-regularised,
Kingma & Welling 2014) or a single latent (VQ). A posterior can be kept as a tensor beside the
fingerprint of the autoencoder that it is of; caches of latents do so.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ldm.errors import ConfigError
from ldm.layers.rng import draw_normal

Generator = torch.Generator | None


class Posterior(Protocol):
    """Distribution of the latents z (B, C, h, w) given images."""

    def sample(self, generator: Generator = None) -> Tensor:
        """Draw z."""
        ...

    def mode(self) -> Tensor:
        """Most probable z."""
        ...

    def kl(self) -> Tensor:
        """Divergence (B,) from the standard normal distribution, summed over C, h, w."""
        ...


class DiagonalGaussian:
    """Normal distribution with independent entries (KL-regularised autoencoders).

    Attributes:
        mean: (B, C, h, w).
        logvar: Logarithm of the variance, clamped to [-30, 20].
        std: Standard deviation.
        var: Variance.
    """

    def __init__(self, moments: Tensor) -> None:
        """Split ``moments`` (B, 2C, h, w) into mean and log-variance."""
        if moments.ndim != 4 or moments.shape[1] % 2:
            raise ValueError(f"moments must be (B, 2C, h, w), got {tuple(moments.shape)}")
        self.mean, logvar = moments.chunk(2, dim=1)
        self.logvar = logvar.clamp(-30.0, 20.0)
        self.std = torch.exp(0.5 * self.logvar)
        self.var = torch.exp(self.logvar)

    def sample(self, generator: Generator = None) -> Tensor:
        """Draw z; a generator on the CPU gives the same noise on every device."""
        noise = draw_normal(self.mean.shape, generator, self.mean.device, self.mean.dtype)
        return self.mean + self.std * noise

    def mode(self) -> Tensor:
        """Most probable z, the mean."""
        return self.mean

    def kl(self, other: DiagonalGaussian | None = None) -> Tensor:
        """Divergence (B,) from ``other`` (default: standard normal), summed over C, h, w."""
        # In float32: sums over a whole map lose too much in half precision.
        mean, logvar = self.mean.float(), self.logvar.float()
        if other is not None:
            shift, scale = other.mean.float(), other.logvar.float()
            mean, logvar = (mean - shift) * torch.exp(-0.5 * scale), logvar - scale
        return 0.5 * (mean**2 + torch.exp(logvar) - 1.0 - logvar).sum(dim=(1, 2, 3))

    def nll(self, x: Tensor) -> Tensor:
        """Negative log-likelihood (B,) of ``x`` (B, C, h, w), in nats, summed over C, h, w."""
        logvar = self.logvar.float()
        squares = (x.float() - self.mean.float()) ** 2 * torch.exp(-logvar)
        terms = math.log(2.0 * math.pi) + logvar + squares
        return 0.5 * terms.sum(dim=(1, 2, 3))


class Deterministic:
    """All probability on one latent (VQ-regularised and identity autoencoders)."""

    def __init__(self, z: Tensor) -> None:
        self.z = z

    def sample(self, generator: Generator = None) -> Tensor:
        """The latent."""
        return self.z

    def mode(self) -> Tensor:
        """The latent."""
        return self.z

    def kl(self) -> Tensor:
        """Zeros (B,): such a posterior is not regularised by a divergence."""
        return self.z.new_zeros(self.z.shape[0])


class Reconstruction(NamedTuple):
    """One pass through an autoencoder, as its training needs it."""

    image: Tensor
    """Reconstruction (B, C, H, W)."""
    posterior: Posterior
    codebook_loss: Tensor | None
    """Scalar; None without a codebook."""
    indices: Tensor | None
    """Chosen codes (B, h, w); None without a codebook."""


class Autoencoder(Protocol):
    """A first stage: images x (B, C, H, W) in [-1, 1], latents z (B, c, H/f, W/f)."""

    image_channels: int
    """C."""
    downsampling_factor: int
    """f."""
    latent_channels: int
    """c."""

    def encode(self, x: Tensor) -> Posterior:
        """Distribution of the latents of ``x``."""
        ...

    def decode(self, z: Tensor) -> Tensor:
        """Images of the latents ``z``."""
        ...

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Reconstruction:
        """Encode, draw a latent, decode."""
        ...


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
        "Deterministic posteriors can be kept as a tensor"
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
