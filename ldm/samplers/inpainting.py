"""Filling in a hole with a model that was not trained for it: the rest is given at every step."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from ldm.diffusion.sampling import NoiseSource, same_time
from ldm.diffusion.schedule import NoiseSchedule
from ldm.errors import DataError


@dataclass(frozen=True)
class KnownRegion:
    """A ``project`` hook: before every update, what is known is put back at the noise level of x.

    As the published DDIM inpainting does it. The model sees the known surroundings at the right
    noise level and continues them; nothing else makes the filling fit, so it fits less well than
    that of a model trained to fill holes. Stochastic samplers (DDIM with eta 1) revise more of what
    was decided early than deterministic ones.

    Attributes:
        known: the data (B, ...), scaled latents of a latent model; anything in the hole.
        hole: (B, 1, ...), 1 where data are to be made, 0 where they are known.
        schedule: the noise schedule.
        noise: source of the noise of the known part, drawn before every update.
    """

    known: Tensor
    hole: Tensor
    schedule: NoiseSchedule
    noise: NoiseSource

    def __call__(self, x: Tensor, t: int) -> Tensor:
        """The state x (B, ...) at time step t with its known part renewed."""
        noised = self.schedule.add_noise(self.known, self.noise(x), same_time(t, x))
        return self.hole * x + (1 - self.hole) * noised

    def paste(self, x: Tensor) -> Tensor:
        """The sample x (B, ...) with its known part as it was given."""
        return self.hole * x + (1 - self.hole) * self.known


def latent_hole(mask: Tensor, factor: int) -> Tensor:
    """The hole (B, 1, H / f, W / f) in latents of a mask (B, 1, H, W) of pixels, 1 = hole.

    A latent belongs to the hole as soon as one of its f x f pixels does.

    Raises:
        DataError: a side is no multiple of the factor.
    """
    height, width = mask.shape[-2:]
    if height % factor or width % factor:
        raise DataError(f"a mask of {height} x {width} pixels: sides must be multiples of {factor}")
    return F.max_pool2d(mask, factor)
