from __future__ import annotations

import torch
from torch import Tensor

from ldm.diffusion.sampling import run_sampler
from ldm.diffusion.schedule import NoiseSchedule
from ldm.layers.winograd import are_constant
from ldm.samplers.ddim import DDIM


def test_weights_are_constant_while_a_sampler_runs() -> None:
    seen = []

    def denoise(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(are_constant())
        return x, x

    schedule = NoiseSchedule(kind="linear", timesteps=10, start=1e-3, end=1e-2)
    run_sampler(DDIM(steps=2), denoise, torch.ones(1, 1), schedule, torch.zeros_like)
    assert seen == [True, True]
    assert not are_constant()
