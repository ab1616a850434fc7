"""DDIM backwards: which noise would have become this image?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from ldm.diffusion.sampling import Denoise, Step, same_time
from ldm.diffusion.schedule import NoiseSchedule
from ldm.errors import ConfigError
from ldm.samplers.karras import euler_step
from ldm.samplers.timesteps import SpacedSampler, Spacing


@dataclass(frozen=True)
class DDIMInversion(SpacedSampler):
    """From data to the noise that ``DDIM(steps, spacing=spacing)`` turns into them (eta 0).

    An update of DDIM goes from x_high to x_low with the noise estimate at x_high, which going back
    is what is sought. The first evaluation takes x_low instead, which is the customary
    approximation (Song et al. 2021, section 4.3); each further one takes the last answer, a
    fixed-point iteration towards the exact inverse. It converges where the steps are short: on the
    grid "logsnr" and without guidance (invert under the condition, but at guidance scale 1).

    Attributes:
        steps: number of updates; as many as DDIM will take.
        spacing: which time steps; the same as DDIM's.
        refinements: further evaluations in every update; 0 is the customary approximation.
    """

    steps: int = 50
    spacing: Spacing = "logsnr"
    refinements: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.refinements < 0:
            raise ConfigError(f"inversion: refinements must not be negative: {self.refinements}")

    def __call__(self, denoise: Denoise, x: Tensor, schedule: NoiseSchedule) -> Iterator[Step]:
        """Noise data x (B, ...), step by step; the last state is that at the noisiest time step."""
        times, levels = self.grid(schedule)
        for index in range(len(times)):
            place = len(times) - 1 - index
            t, low, high = times[place], levels[place + 1], levels[place]
            guess = x
            for _ in range(1 + self.refinements):
                x0, eps = denoise(guess, same_time(t, x))
                guess = euler_step(x, eps, low, high)
            x = guess
            yield Step(index, t, x, x0)
