"""Two Gaussian classes under diffusion: every score and posterior in closed form."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ldm.diffusion.schedule import NoiseSchedule


class TwoGaussians(nn.Module):
    """p(x0) = sum_k prior_k N(mean_k, std_k^2 I) over x of shape (B, D, 1, 1).

    As a network it is the exact classifier: logits (x, t) -> log p(x_t, y).
    """

    def __init__(self, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.schedule = schedule
        self.prior = torch.tensor([0.7, 0.3])
        self.mean = torch.tensor([[-1.0, 0.2], [1.0, -0.4]])
        self.std = torch.tensor([0.6, 0.3])

    def _moments(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """x_t - E[x_t | y] (B, K, D) and Var[x_t | y] (B, K, 1)."""
        alpha = self.schedule.alpha(t, x.flatten(1))[:, :, None]
        sigma = self.schedule.sigma(t, x.flatten(1))[:, :, None]
        offset = x.flatten(1)[:, None] - alpha * self.mean
        return offset, (alpha * self.std[:, None]) ** 2 + sigma**2

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        offset, variance = self._moments(x, t)
        log_density = -0.5 * (offset**2 / variance + variance.log()).sum(2)
        return self.prior.log() + log_density

    def class_score(self, x: Tensor, t: Tensor) -> Tensor:
        """grad log p(x_t | y) for every y, (B, K, D, 1, 1)."""
        offset, variance = self._moments(x, t)
        return (-offset / variance)[..., None, None]

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """grad log p(x_t): the scores of the classes, weighted by p(y | x_t)."""
        weights = self(x, t).softmax(1)[:, :, None, None, None]
        return (weights * self.class_score(x, t)).sum(1)

    def denoise(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The exact unconditional denoiser."""
        eps = -self.schedule.sigma(t, x) * self.score(x, t)
        return self.schedule.x0_from_eps(x, eps, t), eps

    def class_mean(self, x: Tensor, t: Tensor, y: int) -> Tensor:
        """E[x0 | x_t, y] by the rule for jointly Gaussian variables."""
        offset, variance = self._moments(x, t)
        alpha = self.schedule.alpha(t, x.flatten(1))
        gain = alpha * self.std[y] ** 2 / variance[:, y]
        return (self.mean[y] + gain * offset[:, y])[..., None, None]
