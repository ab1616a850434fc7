"""Classifier-free guidance: a wrapper around a denoiser."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.diffusion.sampling import Denoise


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
