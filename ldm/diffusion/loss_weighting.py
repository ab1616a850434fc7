"""How the losses of different time steps are put together into one number."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from ldm.diffusion.prediction import Prediction
from ldm.diffusion.schedule import NoiseSchedule
from ldm.errors import ConfigError, check_count, check_number


class Weighting(Protocol):
    """Contract of a loss weighting (an ``nn.Module``, since it may have parameters)."""

    def __call__(
        self, losses: Tensor, t: Tensor, schedule: NoiseSchedule, prediction: Prediction
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Scalar loss and detached scalars to log, from losses (B,) at steps t (B,)."""


class Uniform(nn.Module):
    """The mean: every step counts the same (L_simple of Ho et al. 2020, used by the paper)."""

    def forward(
        self, losses: Tensor, t: Tensor, schedule: NoiseSchedule, prediction: Prediction
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean of the losses; nothing more to log."""
        return losses.mean(), {}


class MinSNR(nn.Module):
    """min(SNR_t, gamma) on the error of x0 (Hang et al. 2023), whatever the network predicts.

    Args:
        gamma: where the signal-to-noise ratio is cut off.
    """

    def __init__(self, gamma: float = 5.0) -> None:
        super().__init__()
        if not gamma > 0:  # infinite: not cut off
            raise ConfigError(f"gamma: expected a number above 0, got {gamma}")
        self.gamma = gamma

    def forward(
        self, losses: Tensor, t: Tensor, schedule: NoiseSchedule, prediction: Prediction
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean of the weighted losses; nothing more to log."""
        weight = schedule.snr(t).clamp(max=self.gamma) * prediction.x0_error_factor(t, schedule)
        return (weight * losses).mean(), {}


class LogVariance(nn.Module):
    """The published mixture: losses scaled by a log-variance per step, plus a share of the ELBO.

    loss = simple_weight mean(loss_t / exp(logvar_t) + logvar_t) + elbo_weight mean(w_t loss_t),
    with the weights w_t of the variational bound. With the defaults it equals ``Uniform``.

    Args:
        timesteps: number of steps T of the noise schedule.
        init: initial log-variance of every step.
        learn: whether ``logvar`` (T,) is a parameter (and saved) or a constant.
        simple_weight: weight of the simple part.
        elbo_weight: weight of the variational bound.
    """

    logvar: Tensor

    def __init__(
        self,
        timesteps: int = 1000,
        init: float = 0.0,
        learn: bool = False,
        simple_weight: float = 1.0,
        elbo_weight: float = 0.0,
    ) -> None:
        super().__init__()
        check_count("timesteps", timesteps)
        check_number("init", init)
        check_number("simple_weight", simple_weight, 0)
        check_number("elbo_weight", elbo_weight, 0)
        self.simple_weight = simple_weight
        self.elbo_weight = elbo_weight
        logvar = torch.full((timesteps,), float(init))
        if learn:
            self.logvar = nn.Parameter(logvar)
        else:
            self.register_buffer("logvar", logvar, persistent=False)

    def forward(
        self, losses: Tensor, t: Tensor, schedule: NoiseSchedule, prediction: Prediction
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The mixture; logs loss_gamma (simple part), loss_vlb (bound) and the mean logvar."""
        logvar = self.logvar[t]
        simple = (losses / logvar.exp() + logvar).mean()
        vlb = (prediction.elbo_weight(t, schedule) * losses).mean()
        loss = self.simple_weight * simple + self.elbo_weight * vlb
        logs = {"loss_gamma": simple, "loss_vlb": vlb, "logvar": self.logvar.mean()}
        return loss, {name: value.detach() for name, value in logs.items()}
