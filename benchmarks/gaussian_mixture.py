"""A mixture of Gaussians, of which every denoiser and every probability flow is known exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from ldm.diffusion.sampling import Denoise
from ldm.diffusion.schedule import NoiseSchedule
from ldm.samplers.timesteps import CLEAN, Level, noise_levels


@dataclass(frozen=True)
class Mixture:
    """p(x0) = sum_k weight_k N(mean_k, std_k^2 I); its components belong to classes.

    Attributes:
        weights: (K,), adding up to 1.
        means: (K, D).
        stds: (K,).
        classes: (K,), the class of each component.
    """

    weights: np.ndarray
    means: np.ndarray
    stds: np.ndarray
    classes: np.ndarray

    @staticmethod
    def random(seed: int = 0, components: int = 6, dim: int = 2) -> Mixture:
        """Components of different width and weight, in two classes."""
        rng = np.random.default_rng(seed)
        return Mixture(
            rng.dirichlet(np.full(components, 3.0)),
            rng.normal(size=(components, dim)),
            rng.uniform(0.1, 0.3, size=components),
            np.arange(components) % 2,
        )

    def x0(self, x: np.ndarray, level: Level, scale: float | None = None) -> np.ndarray:
        """E[x0 | x] of states x (B, D); with a guidance scale, guided towards class 1."""
        if level.sigma == 0:
            return x
        logits, estimates = self._posterior(x, level)
        everything = _average(logits, estimates)
        if scale is None:
            return everything
        of_class = _average(np.where(self.classes == 1, logits, -np.inf), estimates)
        return np.asarray(everything + scale * (of_class - everything))

    def _posterior(self, x: np.ndarray, level: Level) -> tuple[np.ndarray, np.ndarray]:
        """Log-probability (up to a constant) and E[x0 | x] given each component."""
        variance = (level.alpha * self.stds) ** 2 + level.sigma**2
        offset = x[:, None] - level.alpha * self.means
        density = -0.5 * (offset**2).sum(-1) / variance - 0.5 * x.shape[1] * np.log(variance)
        gain = (level.alpha * self.stds**2 / variance)[:, None]
        return np.log(self.weights) + density, self.means + gain * offset

    def denoiser(self, schedule: NoiseSchedule, scale: float | None = None) -> Denoise:
        """The exact denoiser at the time steps of a schedule, in float64."""
        levels = noise_levels(schedule, torch.arange(schedule.timesteps).flip(0))[-2::-1]

        def denoise(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            level = levels[int(t[0])]
            x0 = torch.from_numpy(self.x0(x.double().numpy(), level, scale)).to(x)
            return x0, (x - level.alpha * x0) / level.sigma

        return denoise

    def flow(
        self, x: np.ndarray, start: Level, end: Level = CLEAN, scale: float | None = None
    ) -> np.ndarray:
        """The exact solution of the probability flow from one level to another, (B, D)."""
        nearly_clean = 1e-7
        first, last = (np.log(max(v.sigma / v.alpha, nearly_clean)) for v in (start, end))

        def slope(log_sigma: float, flat: np.ndarray) -> np.ndarray:
            # in y = x / alpha and s = sigma / alpha: dy / dlog s = y - x0
            y = flat.reshape(x.shape)
            alpha = 1 / np.sqrt(1 + np.exp(2 * log_sigma))
            level = Level(alpha, float(np.sqrt(1 - alpha**2)))
            return np.asarray((y - self.x0(alpha * y, level, scale)).ravel())

        solution = solve_ivp(
            slope, (first, last), (x / start.alpha).ravel(), "DOP853", rtol=1e-10, atol=1e-12
        )
        return np.asarray(solution.y[:, -1].reshape(x.shape) * end.alpha)


def _average(logits: np.ndarray, estimates: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(1, keepdims=True))
    weights /= weights.sum(1, keepdims=True)
    return np.asarray((weights[..., None] * estimates).sum(1))
