"""From noise to latents: generators of steps that see only ``denoise(x, t)``.

- ``DDPM``: x_{t-1} ~ N(posterior mean, posterior variance) for t = T - 1, ..., 0.
- ``DDIM``: x_prev = alpha_prev x0 + sqrt(1 - a_prev - sigma^2) eps + sigma noise.
- ``PLMS``: Adams-Bashforth combinations of the last four estimates of the noise, in a DDIM
  update.
- ``DPMSolver``: Multi-step DPM-Solver++ (2M), and its stochastic form (SDE-DPM-Solver++ 2M).
- ``UniPC``: Predictor-corrector of order p in the estimate of x0, lambda = log(alpha / sigma).
- ``Euler``: First order, one evaluation an update; equal to DDIM with eta 0 on the same time
  steps.
- ``Heun``: Second order: every update but the last averages the slopes at both of its ends.
- ``DDIMInversion``: From data to the noise that ``DDIM(steps, spacing=spacing)`` turns into them
  (eta 0).
- ``SeededNoise``: Noise with one generator per sample, so that a seed names a picture.
- ``KnownRegion``: A ``project`` hook: before every update, what is known is put back at the noise
  level of x.
- ``TimeGrid``: Time steps of one's own, and the noise level on which sampling ends.
- ``slerp``: Spherical interpolation between samples of two batches (B, ...), sample by sample.
- ``noised``: Where to begin to change data: their noised version and the first update to be made.
"""

from ldm.samplers.ddim import DDIM
from ldm.samplers.ddim_inversion import DDIMInversion
from ldm.samplers.ddpm import DDPM
from ldm.samplers.dpm_solver import DPMSolver
from ldm.samplers.img2img import noised
from ldm.samplers.inpainting import KnownRegion
from ldm.samplers.interpolation import slerp
from ldm.samplers.karras import Euler, Heun
from ldm.samplers.noise import SeededNoise
from ldm.samplers.plms import PLMS
from ldm.samplers.timesteps import TimeGrid
from ldm.samplers.unipc import UniPC

__all__ = [
    "DDIM",
    "DDPM",
    "PLMS",
    "DDIMInversion",
    "DPMSolver",
    "Euler",
    "Heun",
    "KnownRegion",
    "SeededNoise",
    "TimeGrid",
    "UniPC",
    "noised",
    "slerp",
]
