from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ldm.diffusion.schedule import NoiseSchedule
from ldm.errors import ConfigError
from ldm.samplers.timesteps import (
    CLEAN,
    SPACINGS,
    Level,
    TimeGrid,
    descending_times,
    noise_levels,
)


@cache
def schedule(total: int = 1000) -> NoiseSchedule:
    return NoiseSchedule("linear", total, 0.0015, 0.0195)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("total", [1, 2, 3, 4, 5, 7, 20, 50, 1000])
def test_exactly_the_steps_asked_for(spacing: str, total: int) -> None:
    for steps in range(1, total + 1):
        times = descending_times(spacing, steps, schedule(total))
        assert times.dtype == torch.int64
        assert len(times) == steps
        assert (times.diff() < 0).all()
        assert times[0] < total
        assert times[-1] >= 0
    assert descending_times(spacing, total, schedule(total)).tolist() == [*range(total)][::-1]


@pytest.mark.parametrize("steps", [1, 2, 4, 5, 10, 20, 25, 40, 50, 100, 125, 200, 250, 500])
def test_uniform_is_as_published_where_steps_divide_the_total(steps: int) -> None:
    published = torch.arange(0, 1000, 1000 // steps) + 1
    assert torch.equal(descending_times("uniform", steps, schedule()).flip(0), published)


@pytest.mark.parametrize("spacing", ["trailing", "linspace", "karras", "logsnr"])
@pytest.mark.parametrize("steps", [1, 2, 3, 20, 50])
def test_these_start_at_the_noisiest_step(spacing: str, steps: int) -> None:
    times = descending_times(spacing, steps, schedule())
    assert times[0] == 999
    if spacing != "trailing" and steps > 1:
        assert times[-1] == 0


def log_sigmas(times: Tensor) -> np.ndarray:
    return -np.array([level.log_snr for level in noise_levels(schedule(), times)[:-1]])


def test_karras_is_the_published_ramp_up_to_rounding() -> None:
    times = descending_times("karras", 20, schedule())
    got = log_sigmas(times)
    ramp = np.linspace(np.exp(got[0]) ** (1 / 7), np.exp(got[-1]) ** (1 / 7), 20)
    largest_gap = np.abs(np.diff(log_sigmas(torch.arange(1000)))[1:]).max()
    assert np.abs(got - 7 * np.log(ramp)).max() <= largest_gap / 2 + 1e-9


def test_logsnr_steps_are_equal_up_to_rounding() -> None:
    gaps = np.diff(log_sigmas(descending_times("logsnr", 20, schedule())))
    assert gaps.std() < 0.1 * abs(gaps.mean())


def test_against_the_grids_of_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    betas = schedule().betas.numpy()
    pairs = [("leading", "uniform"), ("leading", "strided"), ("trailing", "trailing")]
    for theirs, mine in [*pairs, ("linspace", "linspace")]:
        offset = 1 if mine in ("uniform", "strided") else 0
        other = diffusers.DDIMScheduler(
            trained_betas=betas, timestep_spacing=theirs, steps_offset=offset
        )
        for steps in (4, 20, 50, 250, *((30, 7, 333, 600) if mine == "strided" else ())):
            other.set_timesteps(steps)
            assert other.timesteps.tolist() == descending_times(mine, steps, schedule()).tolist()
    for steps in (10, 20, 50):
        other = diffusers.DPMSolverMultistepScheduler(trained_betas=betas, use_karras_sigmas=True)
        other.set_timesteps(steps)
        want, got = other.timesteps, descending_times("karras", steps, schedule())
        # theirs may name a step twice near clean data, where the levels lie far apart
        assert (want - got).abs().max() <= (0 if len(set(want.tolist())) == steps else steps // 5)


def test_levels_and_where_they_end() -> None:
    abar = schedule().exact_alphas_cumprod
    levels = noise_levels(schedule(), torch.tensor([500, 20, 0]))
    assert levels[-1] == CLEAN == Level(1.0, 0.0)
    assert levels[-1].log_snr == float("inf")
    for level, t in zip(levels, (500, 20, 0), strict=False):
        assert level.alpha**2 == pytest.approx(abar[t].item(), rel=1e-14)
        assert level.alpha**2 + level.sigma**2 == pytest.approx(1, rel=1e-14)
        assert level.log_snr == pytest.approx(0.5 * torch.logit(abar[t]).item(), rel=1e-9)
    assert noise_levels(schedule(), torch.tensor([500, 20]))[-1].alpha ** 2 == pytest.approx(
        abar[0]
    )


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [1, 10, 1000])
def test_which_grids_end_on_clean_data(spacing: str, steps: int) -> None:
    times = descending_times(spacing, steps, schedule())
    clean = noise_levels(schedule(), times, spacing)[-1] == CLEAN
    assert clean == (spacing not in ("uniform", "strided", "quad") or steps == 1000)


def test_a_grid_of_ones_own() -> None:
    chosen = torch.tensor([900, 500, 7])
    assert torch.equal(descending_times(lambda n, s: chosen, 3, schedule()), chosen)


@pytest.mark.parametrize(
    "times", [[5, 9], [9, 9], [9], [1000, 3], [4, -1], [[9, 5]], [9.0, 5.0], []]
)
def test_a_wrong_grid_of_ones_own(times: list) -> None:
    own: Callable[[int, NoiseSchedule], Tensor] = lambda steps, schedule: torch.tensor(times)  # noqa: E731
    with pytest.raises(ConfigError, match="must give 2 integer time steps, descending within 999"):
        descending_times(own, 2, schedule())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_a_grid_of_any_integers(dtype: torch.dtype) -> None:
    chosen = [200, 50, 7]
    array = np.array(chosen)
    for times in (chosen, tuple(chosen), array, torch.tensor(chosen, dtype=dtype)):
        for grid in (TimeGrid(times), TimeGrid(lambda n, s, times=times: times)):
            assert descending_times(grid, 3, schedule()).tolist() == chosen


@pytest.mark.parametrize(
    "times", [[10**30, 5], [2**63, 5], [9, -(10**30)], None, 5, ["9", 5], [9, None], [[9], [5, 1]]]
)
def test_what_is_no_grid_is_refused(times: Any) -> None:
    for grid in (TimeGrid(times), TimeGrid(lambda n, s: times)):
        with pytest.raises(ConfigError, match="must give 2 integer time steps"):
            descending_times(grid, 2, schedule())


@pytest.mark.parametrize("spacing", [5, None, [9, 5], {"a": 1}])
def test_what_is_no_spacing_is_refused(spacing: Any) -> None:
    with pytest.raises(ConfigError, match=r"expected one of uniform, .*or a TimeGrid"):
        descending_times(spacing, 2, schedule())


@pytest.mark.parametrize(
    ("spacing", "steps", "message"),
    [
        ("cubic", 5, "unknown spacing 'cubic': choose one of uniform, strided"),
        ("uniform", 0, "cannot take 0 sampling steps: choose at least 1"),
        ("karras", 51, "cannot take 51 sampling steps: choose 1 to 50"),
    ],
)
def test_errors(spacing: str, steps: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        descending_times(spacing, steps, schedule(50))
