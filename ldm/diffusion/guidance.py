"""Guidance: wrappers around a denoiser that pull samples towards their conditions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.diffusion.sampling import Denoise
from ldm.diffusion.schedule import NoiseSchedule


@dataclass(frozen=True)
class ClassifierFreeGuidance:
    """uncond + scale (cond - uncond) with one network pass (Ho & Salimans 2022).

    x0 is affine in eps and the two weights add up to 1, so combining both estimates by the same
    formula keeps them consistent. Scale 1 gives the conditional estimate at twice the cost.

    Args:
        denoise_both: denoiser of a doubled batch, conditioned on [unconditional, conditional].
        scale: guidance scale s; 0 is unconditional, above 1 moves away from unconditional.
    """

    denoise_both: Denoise
    scale: float

    def __call__(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Guided (x0, eps) at x (B, ...) and steps t (B,)."""
        x0, eps = self.denoise_both(torch.cat([x, x]), torch.cat([t, t]))
        return self._combine(x0), self._combine(eps)

    def _combine(self, both: Tensor) -> Tensor:
        uncond, cond = both.chunk(2)
        return uncond + self.scale * (cond - uncond)


@dataclass(frozen=True)
class ClassifierGuidance:
    """eps - scale sigma_t grad_x log p(y | x_t) (Dhariwal & Nichol 2021, eq. 14 and algorithm 2).

    By Bayes' rule grad log p(x_t | y) = grad log p(x_t) + grad log p(y | x_t), and
    eps = -sigma_t grad log p: hence the minus. (The LDM paper prints a plus.) x0 is recomputed from
    the guided eps. Wraps any denoiser, also one under classifier-free guidance.

    Args:
        denoise: the denoiser to guide.
        gradient: ``gradient(x (B, ...), t (B,))``, that of log p(y | x_t) with respect to x.
        scale: 0 is off, 1 samples from the conditional distribution, more sharpens it.
        schedule: the noise schedule of both.
    """

    denoise: Denoise
    gradient: Callable[[Tensor, Tensor], Tensor]
    scale: float
    schedule: NoiseSchedule

    def __call__(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Guided (x0, eps) at x (B, ...) and steps t (B,)."""
        x0, eps = self.denoise(x, t)
        if self.scale == 0:
            return x0, eps
        eps = eps - self.scale * self.schedule.sigma(t, x) * self.gradient(x, t)
        return self.schedule.x0_from_eps(x, eps, t), eps
