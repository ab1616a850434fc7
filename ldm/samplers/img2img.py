"""Starting from an image instead of noise (SDEdit, Meng et al. 2022)."""

from __future__ import annotations

from torch import Tensor

from ldm.diffusion.sampling import NoiseSource, Sampler, same_time
from ldm.diffusion.schedule import NoiseSchedule
from ldm.errors import ConfigError


def first_update(sampler: Sampler, schedule: NoiseSchedule, strength: float) -> int:
    """The update with which sampling begins, so that int(``strength`` x updates) of them are made.

    That is how the original code and diffusers count. At least one is made; all of them, where
    there are several, at strength 1 only.

    Raises:
        ConfigError: ``strength`` is not within (0, 1].
    """
    if not 0 < strength <= 1:
        raise ConfigError(f"strength must be above 0 and at most 1, got {strength}")
    updates = len(sampler.times(schedule))
    if strength == 1:
        return 0
    return updates - max(1, min(int(strength * updates), updates - 1))


def noised(
    x0: Tensor, sampler: Sampler, schedule: NoiseSchedule, noise: NoiseSource, strength: float
) -> tuple[Tensor, int]:
    """Where to begin to change data: their noised version and the first update to be made.

    The noise level is that of the time step at which the first update evaluates the denoiser. At
    strength 1, and there alone, nothing is left of the data: the start is noise, as ever.

    Args:
        x0: data (B, ...), scaled latents of a latent model.
        sampler: that will be run.
        schedule: the noise schedule.
        noise: source of the noise.
        strength: share of the updates to be made, within (0, 1]; more is farther from the data.

    Returns:
        The state (B, ...) and ``begin``, both for ``run_sampler``.
    """
    begin = first_update(sampler, schedule, strength)
    if strength == 1:
        return noise(x0), 0
    t = int(sampler.times(schedule)[begin])
    return schedule.add_noise(x0, noise(x0), same_time(t, x0)), begin
