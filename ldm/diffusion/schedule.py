"""The forward process: how much of the data and how much noise there is at every time step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ldm.errors import ConfigError, check_count

_MOST_STEPS = 10**6
KINDS = ("linear", "sqrt_linear", "sqrt", "cosine")


def make_betas(
    kind: str, timesteps: int, start: float, end: float, cosine_offset: float = 8e-3
) -> np.ndarray:
    """Variances beta_t of a named schedule, float64 of shape (timesteps,).

    The names are those of the published configurations, where ``"linear"`` means linear in
    *sqrt(beta)*; the plain ramp of Ho et al. 2020 is called ``"sqrt_linear"``, and ``"sqrt"`` is
    the square root of a ramp. ``"cosine"`` is Nichol & Dhariwal 2021, eq. 17, clipped at 0.999
    (``start`` and ``end`` play no part in it).
    """
    if kind == "linear":
        return np.linspace(math.sqrt(start), math.sqrt(end), timesteps) ** 2
    if kind == "sqrt_linear":
        return np.linspace(start, end, timesteps)
    if kind == "sqrt":
        return np.sqrt(np.linspace(start, end, timesteps))
    if kind == "cosine":
        u = np.arange(timesteps + 1) / timesteps
        survival = np.cos((u + cosine_offset) / (1 + cosine_offset) * math.pi / 2) ** 2
        return np.clip(1 - survival[1:] / survival[:-1], 0, 0.999)
    raise ConfigError(f"unknown noise schedule {kind!r}: choose one of {', '.join(KINDS)}")


class NoiseSchedule(nn.Module):
    """Discrete variance-preserving diffusion q(x_t | x_0) = N(sqrt(abar_t) x_0, (1 - abar_t) I).

    Time steps run from 0 (almost clean) to ``timesteps - 1`` (almost noise). All tables are worked
    out in float64 and kept as float32 buffers of shape (timesteps,) under their published names.
    They follow the module from device to device, but keep float32 when it is cast to another
    precision, and they are not part of the state dict: the arguments determine them.

    Args:
        kind: "linear" (linear in sqrt(beta), as in the paper), "sqrt_linear", "sqrt" or "cosine".
        timesteps: number of steps T.
        start: first beta.
        end: last beta.
        betas: explicit variances, replacing ``kind``, ``timesteps``, ``start`` and ``end``.
        cosine_offset: the small offset s of the cosine schedule.
        v_posterior: share of beta_t (rather than the true posterior variance) in the variance of
            ancestral sampling, between 0 and 1.

    Raises:
        ConfigError: for an unknown kind or for variances outside (0, 1).
    """

    betas: Tensor
    alphas: Tensor
    alphas_cumprod: Tensor
    alphas_cumprod_prev: Tensor
    sqrt_alphas_cumprod: Tensor
    sqrt_one_minus_alphas_cumprod: Tensor
    log_one_minus_alphas_cumprod: Tensor
    sqrt_recip_alphas_cumprod: Tensor
    sqrt_recipm1_alphas_cumprod: Tensor
    posterior_variance: Tensor
    posterior_log_variance_clipped: Tensor
    posterior_mean_coef1: Tensor
    posterior_mean_coef2: Tensor

    def __init__(
        self,
        kind: str = "linear",
        timesteps: int = 1000,
        start: float = 1e-4,
        end: float = 2e-2,
        betas: Sequence[float] | Tensor | None = None,
        cosine_offset: float = 8e-3,
        v_posterior: float = 0.0,
    ) -> None:
        super().__init__()
        if betas is None:
            check_count("timesteps", timesteps, highest=_MOST_STEPS)
            table = make_betas(kind, timesteps, start, end, cosine_offset)
        else:
            # numpy, not torch: a default device such as "meta" must not catch these tables
            table = np.asarray(torch.as_tensor(betas, device="cpu").double().numpy())
        if table.ndim != 1 or not len(table):
            raise ConfigError(f"noise schedule: no time steps, got {timesteps=} and {betas=}")
        if not ((table > 0) & (table < 1)).all():
            raise ConfigError(
                f"noise schedule: every beta must lie in (0, 1), got {kind=} {start=} {end=} with "
                f"betas from {table.min():.3g} to {table.max():.3g}"
            )
        if not 0 <= v_posterior <= 1:
            raise ConfigError(f"noise schedule: v_posterior must lie in [0, 1], got {v_posterior}")
        self.timesteps = len(table)
        self._exact = _tables(table, v_posterior)
        for name, values in self._exact.items():
            self.register_buffer(name, values.float(), persistent=False)

    @property
    def exact_alphas_cumprod(self) -> Tensor:
        """alphas_cumprod in float64 on the CPU, for the coefficients of samplers."""
        return self._exact["alphas_cumprod"]

    def _apply(self, fn: Callable[..., Tensor], recurse: bool = True) -> Any:
        # .half(), .to(bfloat16) and to_empty() would spoil the tables: only the device may change
        super()._apply(fn, recurse)
        for name, values in self._exact.items():
            self._buffers[name] = values.float().to(getattr(self, name).device)
        return self

    # -- reading the tables at t ------------------------------------------------------------

    def alpha(self, t: Tensor, like: Tensor) -> Tensor:
        """sqrt(abar_t) of steps t (B,), shaped (B, 1, ...) to broadcast with ``like`` (B, ...)."""
        return at(self.sqrt_alphas_cumprod, t, like)

    def sigma(self, t: Tensor, like: Tensor) -> Tensor:
        """sqrt(1 - abar_t) of steps t (B,), shaped (B, 1, ...) to broadcast with ``like``."""
        return at(self.sqrt_one_minus_alphas_cumprod, t, like)

    def snr(self, t: Tensor) -> Tensor:
        """Signal-to-noise ratio abar_t / (1 - abar_t) of steps t, same shape as t."""
        return (self.sqrt_alphas_cumprod[t] / self.sqrt_one_minus_alphas_cumprod[t]) ** 2

    # -- forward process --------------------------------------------------------------------

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Draw x_t given standard normal ``noise``: alpha_t x0 + sigma_t noise."""
        return self.alpha(t, x0) * x0 + self.sigma(t, x0) * noise

    def marginal(self, x0: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean (B, ...), variance and log-variance (B, 1, ...) of q(x_t | x_0)."""
        variance = at(1 - self.alphas_cumprod, t, x0)
        return self.alpha(t, x0) * x0, variance, at(self.log_one_minus_alphas_cumprod, t, x0)

    def x0_from_eps(self, x_t: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Clean data implied by a noise estimate: (x_t - sigma_t eps) / alpha_t."""
        recip = at(self.sqrt_recip_alphas_cumprod, t, x_t)
        return recip * x_t - at(self.sqrt_recipm1_alphas_cumprod, t, x_t) * eps

    def eps_from_x0(self, x_t: Tensor, x0: Tensor, t: Tensor) -> Tensor:
        """Noise implied by an estimate of the clean data: (x_t - alpha_t x0) / sigma_t."""
        recip = at(self.sqrt_recip_alphas_cumprod, t, x_t)
        return (recip * x_t - x0) / at(self.sqrt_recipm1_alphas_cumprod, t, x_t)

    # -- reverse process --------------------------------------------------------------------

    def posterior(self, x0: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean (B, ...), variance and log-variance (B, 1, ...) of q(x_{t-1} | x_t, x_0).

        Ho et al. 2020, eq. 6-7. The variance at t = 0 is 0; its logarithm is that of 1e-20.
        """
        mean = at(self.posterior_mean_coef1, t, x_t) * x0
        mean = mean + at(self.posterior_mean_coef2, t, x_t) * x_t
        variance = at(self.posterior_variance, t, x_t)
        return mean, variance, at(self.posterior_log_variance_clipped, t, x_t)

    def prior_bpd(self, x0: Tensor) -> Tensor:
        """KL(q(x_T | x_0) || N(0, I)) in bits per dimension, shape (B,)."""
        last = torch.full((len(x0),), self.timesteps - 1, device=x0.device)
        mean, _, logvar = self.marginal(x0, last)
        kl = 0.5 * (-1 - logvar + logvar.exp() + mean**2)  # in this order: it cancels badly
        return kl.flatten(1).mean(1) / math.log(2)


def at(table: Tensor, t: Tensor, like: Tensor) -> Tensor:
    """Entries of ``table`` (T,) at steps t (B,), shaped (B, 1, ...) with as many axes as like."""
    return table[t].reshape(-1, *(1,) * (like.ndim - 1))


def _tables(betas: np.ndarray, v_posterior: float) -> dict[str, Tensor]:
    """All published buffers (and ``alphas``) but the ELBO weights, in float64."""
    alphas_cumprod = np.cumprod(1 - betas)
    previous = np.append(1.0, alphas_cumprod[:-1])
    true_variance = betas * (1 - previous) / (1 - alphas_cumprod)
    variance = (1 - v_posterior) * true_variance + v_posterior * betas
    tables = {
        "betas": betas,
        "alphas": 1 - betas,
        "alphas_cumprod": alphas_cumprod,
        "alphas_cumprod_prev": previous,
        "sqrt_alphas_cumprod": np.sqrt(alphas_cumprod),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(1 - alphas_cumprod),
        "log_one_minus_alphas_cumprod": np.log(1 - alphas_cumprod),
        "sqrt_recip_alphas_cumprod": np.sqrt(1 / alphas_cumprod),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(1 / alphas_cumprod - 1),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": np.log(np.maximum(variance, 1e-20)),
        "posterior_mean_coef1": betas * np.sqrt(previous) / (1 - alphas_cumprod),
        "posterior_mean_coef2": (1 - previous) * np.sqrt(1 - betas) / (1 - alphas_cumprod),
    }
    return {name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in tables.items()}
