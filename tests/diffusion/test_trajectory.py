from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ldm.diffusion.schedule import NoiseSchedule
from ldm.diffusion.trajectory import evenly_spaced, log_snr, noised, trace
from ldm.samplers.ddim import DDIM
from ldm.samplers.noise import SeededNoise

SCHEDULE = NoiseSchedule(timesteps=20)


def _denoise(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    x0 = x.tanh()
    return x0, SCHEDULE.eps_from_x0(x, x0, t)


def test_evenly_spaced() -> None:
    assert evenly_spaced(3, 9) == [0, 4, 8]
    assert evenly_spaced(8, 5) == [0, 1, 2, 3, 4]
    assert evenly_spaced(1, 5) == [0]
    assert evenly_spaced(4, 1) == [0]
    for count in range(1, 30):
        chosen = evenly_spaced(count, 20)
        assert len(chosen) == min(count, 20)
        assert count == 1 or (chosen[0], chosen[-1]) == (0, 19)
    with pytest.raises(ValueError, match="cannot choose 0 of 5"):
        evenly_spaced(0, 5)


def test_trace_keeps_what_the_denoiser_saw() -> None:
    seen: dict[int, Tensor] = {}

    def watched(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        seen[int(t[0])] = x
        return _denoise(x, t)

    sampler = DDIM(steps=5, eta=1.0)
    start = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    moments, last = trace(sampler, watched, start, SCHEDULE, SeededNoise([0, 1]), [0, 2, 4])
    times = sampler.times(SCHEDULE)
    assert [moment.t for moment in moments] == times[[0, 2, 4]].tolist()
    assert torch.equal(moments[0].x, start)
    for moment in moments:
        assert torch.equal(moment.x, seen[moment.t])
        assert torch.equal(moment.x0, moment.x.tanh())
    *_, step = sampler(_denoise, start, SCHEDULE, SeededNoise([0, 1]))
    assert torch.equal(last, step.x)


def test_noised_states_and_their_log_snr() -> None:
    x0, noise = torch.full((2, 3), 2.0), torch.full((2, 3), 5.0)
    states = noised(x0, noise, [0, 19], SCHEDULE)
    assert states.shape == (2, 2, 3)
    for t, state, ratio in zip((0, 19), states, log_snr([0, 19], SCHEDULE), strict=True):
        abar = float(SCHEDULE.exact_alphas_cumprod[t])
        expected = 2 * math.sqrt(abar) + 5 * math.sqrt(1 - abar)
        torch.testing.assert_close(state, torch.full((2, 3), expected))
        assert ratio == pytest.approx(math.log(abar / (1 - abar)))
