"""What the denoiser predicts: the noise, the clean data, or the velocity between them.

A prediction type turns (x0, noise) into the training target and a network output into
estimates of both x0 and noise. It also knows the two factors by which losses are weighted over t.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ldm.diffusion.schedule import NoiseSchedule


class Prediction(Protocol):
    """Contract of a prediction type; tensors x are (B, ...), steps t are (B,)."""

    def target(self, x0: Tensor, noise: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
        """What the network should output for x_t = alpha_t x0 + sigma_t noise."""

    def to_x0_eps(
        self, output: Tensor, x_t: Tensor, t: Tensor, schedule: NoiseSchedule
    ) -> tuple[Tensor, Tensor]:
        """Estimates of the clean data and of the noise that a network output stands for."""

    def x0_error_factor(self, t: Tensor, schedule: NoiseSchedule) -> Tensor:
        """The k_t (B,) with ||error of x0||^2 = k_t ||error of the output||^2."""

    def elbo_weight(self, t: Tensor, schedule: NoiseSchedule) -> Tensor:
        """Weight (B,) of the squared output error in the variational bound, from buffers in fp32.

        The bound has another form at t = 0; as published, the weight of t = 1 serves there.
        """


@dataclass(frozen=True)
class Eps:
    """The noise (Ho et al. 2020): all published models."""

    def target(self, x0: Tensor, noise: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
        """The noise itself."""
        return noise

    def to_x0_eps(
        self, output: Tensor, x_t: Tensor, t: Tensor, schedule: NoiseSchedule
    ) -> tuple[Tensor, Tensor]:
        """Clean data (x_t - sigma eps) / alpha."""
        return schedule.x0_from_eps(x_t, output, t), output

    def x0_error_factor(self, t: Tensor, schedule: NoiseSchedule) -> Tensor:
        """sigma^2 / alpha^2."""
        return 1 / schedule.snr(t)

    def elbo_weight(self, t: Tensor, schedule: NoiseSchedule) -> Tensor:
        """beta^2 / (2 posterior_variance (1 - beta) (1 - abar)), Ho et al. 2020, eq. 12."""
        t = t.clamp(min=1)
        alpha, noise_share = schedule.alphas[t], 1 - schedule.alphas_cumprod[t]
        return schedule.betas[t] ** 2 / (2 * schedule.posterior_variance[t] * alpha * noise_share)


@dataclass(frozen=True)
class X0:
    """The clean data."""

    def target(self, x0: Tensor, noise: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
        """The clean data itself."""
        return x0

    def to_x0_eps(
        self, output: Tensor, x_t: Tensor, t: Tensor, schedule: NoiseSchedule
    ) -> tuple[Tensor, Tensor]:
        """Noise (x_t - alpha x0) / sigma."""
        return output, schedule.eps_from_x0(x_t, output, t)

    def x0_error_factor(self, t: Tensor, schedule: NoiseSchedule) -> Tensor:
        """1."""
        return schedule.betas.new_ones(t.shape)

    def elbo_weight(self, t: Tensor, schedule: NoiseSchedule) -> Tensor:
        """0.5 sqrt(abar) / (2 - abar): the published formula, though not the exact bound.

        (A pair of brackets is missing in the original; kept so that published losses agree.)
        """
        abar = schedule.alphas_cumprod[t.clamp(min=1)]
        return 0.5 * abar.sqrt() / (2 - abar)


@dataclass(frozen=True)
class V:
    """The velocity v = alpha noise - sigma x0 (Salimans & Ho 2022)."""

    def target(self, x0: Tensor, noise: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
        """The velocity alpha noise - sigma x0."""
        return schedule.alpha(t, x0) * noise - schedule.sigma(t, x0) * x0

    def to_x0_eps(
        self, output: Tensor, x_t: Tensor, t: Tensor, schedule: NoiseSchedule
    ) -> tuple[Tensor, Tensor]:
        """x0 = alpha x_t - sigma v and eps = sigma x_t + alpha v."""
        alpha, sigma = schedule.alpha(t, x_t), schedule.sigma(t, x_t)
        return alpha * x_t - sigma * output, sigma * x_t + alpha * output

    def x0_error_factor(self, t: Tensor, schedule: NoiseSchedule) -> Tensor:
        """sigma^2."""
        return 1 - schedule.alphas_cumprod[t]

    def elbo_weight(self, t: Tensor, schedule: NoiseSchedule) -> Tensor:
        """The weight of the noise error (see ``Eps``) times alpha^2."""
        t = t.clamp(min=1)
        return Eps().elbo_weight(t, schedule) * schedule.alphas_cumprod[t]
