"""What holds for every sampler, grid and number of steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ldm.diffusion.sampling import Denoise, Sampler
from ldm.diffusion.schedule import NoiseSchedule
from ldm.errors import ConfigError
from ldm.samplers.ddim import DDIM
from ldm.samplers.ddpm import DDPM
from ldm.samplers.dpm_solver import DPMSolver
from ldm.samplers.karras import Euler, Heun
from ldm.samplers.plms import EQUAL_STEPS, PLMS
from ldm.samplers.timesteps import CLEAN, SPACINGS, noise_levels
from ldm.samplers.unipc import UniPC
from tests.samplers.analytic import GeneratorNoise, gaussian_denoiser

SHORT = NoiseSchedule("linear", 20, 0.02, 0.5)
SAMPLERS: dict[str, Callable[[int, Any], Sampler]] = {
    "DDIM": lambda n, spacing: DDIM(n, spacing=spacing),
    "DDIM eta 1": lambda n, spacing: DDIM(n, 1.0, spacing),
    "PLMS": PLMS,
    "DPM-Solver++ 1": lambda n, spacing: DPMSolver(n, 1, spacing),
    "DPM-Solver++ 2M": lambda n, spacing: DPMSolver(n, 2, spacing),
    "DPM-Solver++ SDE": lambda n, spacing: DPMSolver(n, 2, spacing, stochastic=True),
    "UniPC-1": lambda n, spacing: UniPC(n, 1, spacing),
    "UniPC-2": lambda n, spacing: UniPC(n, 2, spacing),
    "UniPC-3": lambda n, spacing: UniPC(n, 3, spacing),
    "Euler": Euler,
    "Heun": Heun,
    "DDPM": lambda n, spacing: DDPM(),
}
NOISY = ("DDIM eta 1", "DPM-Solver++ SDE", "DDPM")
TRUTH = torch.randn(3, 2, generator=torch.Generator().manual_seed(5))


class Oracle:
    """Knows the data; keeps the time steps at which it was asked."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        self.schedule = schedule
        self.calls: list[int] = []

    def __call__(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        assert t.shape == (len(x),)
        self.calls.append(int(t[0]))
        return TRUTH.to(x), self.schedule.eps_from_x0(x, TRUTH.to(x), t)


def evaluations(sampler: Sampler, updates: int) -> int:
    if isinstance(sampler, Heun):
        return 2 * updates - 1
    return updates + isinstance(sampler, PLMS)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", SAMPLERS)
def test_any_number_of_steps_leads_to_known_data(name: str, spacing: str) -> None:
    """With all told, errors of the solver vanish: its coefficients must add up, at any end."""
    if name == "PLMS" and spacing not in EQUAL_STEPS:
        pytest.skip("PLMS takes equal steps")
    for steps in range(1, SHORT.timesteps + 1):
        sampler, oracle = SAMPLERS[name](steps, spacing), Oracle(SHORT)
        times = sampler.times(SHORT)
        eps = torch.randn(3, 2, generator=torch.Generator().manual_seed(steps))
        start = SHORT.add_noise(TRUTH, eps, times[:1].expand(3))
        made = list(sampler(oracle, start, SHORT, GeneratorNoise(0)))
        assert len(made) == len(times) == (20 if name == "DDPM" else steps)
        assert [step.index for step in made] == [*range(len(times))]
        assert [step.t for step in made] == times.tolist()
        assert len(oracle.calls) == evaluations(sampler, len(times))
        end = CLEAN if name == "DDPM" else noise_levels(SHORT, times, spacing)[-1]
        left = made[-1].x - end.alpha * TRUTH
        if name in NOISY:  # what noise is left has the scale of the end, none after clean data
            assert left.abs().max() <= 5 * end.sigma + 1e-5
        elif (name, steps) != ("PLMS", 1):  # whose second slope is not taken where it should be
            torch.testing.assert_close(left, end.sigma * eps, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", SAMPLERS)
def test_states_keep_their_precision(name: str) -> None:
    start = torch.ones(3, 2, dtype=torch.float64)
    for step in SAMPLERS[name](5, "trailing")(Oracle(SHORT), start, SHORT, torch.randn_like):
        assert step.x.dtype == step.x0.dtype == torch.float64


@pytest.mark.parametrize("name", SAMPLERS)
def test_beginning_later_is_a_run_on_the_rest_of_the_grid(name: str) -> None:
    """In particular, nothing is remembered of updates that were not made."""
    grid = torch.tensor([19, 15, 11, 8, 4, 1])
    denoise = gaussian_denoiser(SHORT, torch.tensor(0.3), torch.tensor(0.5))
    whole = SAMPLERS[name](6, lambda steps, schedule: grid)
    rest = SAMPLERS[name](4, lambda steps, schedule: grid[2:])
    begin = 2 if name != "DDPM" else 0
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    late = list(whole(denoise, x, SHORT, GeneratorNoise(1), begin=begin))
    alone = list(rest(denoise, x, SHORT, GeneratorNoise(1)))
    assert [step.index - begin for step in late] == [step.index for step in alone]
    assert torch.equal(late[-1].x, alone[-1].x)


@pytest.mark.parametrize("name", SAMPLERS)
def test_what_is_projected_is_denoised(name: str) -> None:
    """Once an update, before its first evaluation, and an update starts from the result."""
    asked: list[int] = []
    states: list[Tensor] = []

    def project(x: Tensor, t: int) -> Tensor:
        asked.append(t)
        return torch.full_like(x, 0.25)

    def denoise(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        states.append(x)
        return torch.zeros_like(x), x

    sampler = SAMPLERS[name](5, "trailing")
    made = list(sampler(denoise, torch.ones(2, 2), SHORT, GeneratorNoise(0), project))
    assert asked == [step.t for step in made]
    assert sum(bool((state == 0.25).all()) for state in states) >= len(made)


def test_unipc_corrects_what_was_projected() -> None:
    """An estimate of x0 that never changes asks for no correction: the projected state stays."""
    sampler = UniPC(5, 2, "logsnr")
    levels = noise_levels(SHORT, sampler.times(SHORT), "logsnr")

    def project(x: Tensor, t: int) -> Tensor:
        return torch.full_like(x, 0.25)

    zero: Denoise = lambda x, t: (torch.zeros_like(x), x)  # noqa: E731
    for step in sampler(zero, torch.ones(2, 2), SHORT, torch.zeros_like, project):
        here, there = levels[step.index], levels[step.index + 1]
        torch.testing.assert_close(step.x, torch.full((2, 2), 0.25 * there.sigma / here.sigma))


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "DDPM"])
def test_single_precision_is_enough_where_alpha_is_tiny(name: str) -> None:
    """The cosine schedule begins at alpha = 5e-5: x / alpha would lose all digits."""
    schedule = NoiseSchedule("cosine", 1000)
    x = torch.randn(8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    denoise = gaussian_denoiser(schedule, torch.tensor(0.3), torch.tensor(0.5))
    spacing = "uniform" if name == "PLMS" else "trailing"

    def exact(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = (float(f(t, x).flatten()[0]) for f in (schedule.alpha, schedule.sigma))
        x0 = denoise(x.double(), t)[0]
        return x0.to(x), ((x.double() - alpha * x0) / sigma).to(x)

    ends = []
    for start in (x, x.float()):
        *_, last = SAMPLERS[name](50, spacing)(exact, start, schedule, torch.zeros_like)
        ends.append(last.x.double())
    assert (ends[0] - ends[1]).abs().max() < 3e-4


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "DDPM"])
def test_errors(name: str) -> None:
    with pytest.raises(ConfigError, match="choose at least 1"):
        SAMPLERS[name](0, "trailing")
    with pytest.raises(ConfigError, match="unknown spacing 'cubic': choose one of uniform"):
        SAMPLERS[name](5, "cubic")
    sampler = SAMPLERS[name](21, "trailing")
    with pytest.raises(ConfigError, match="21 sampling steps: choose 1 to 20"):
        sampler.times(SHORT)
    with pytest.raises(ConfigError, match="21 sampling steps: choose 1 to 20"):
        next(iter(sampler(Oracle(SHORT), torch.zeros(3, 2), SHORT, torch.zeros_like)))


@pytest.mark.parametrize("spacing", [name for name in SPACINGS if name not in EQUAL_STEPS])
def test_plms_refuses_unequal_steps(spacing: str) -> None:
    with pytest.raises(ConfigError, match=f"PLMS takes equal steps of t, not spacing '{spacing}'"):
        PLMS(10, spacing)


@pytest.mark.parametrize(("kind", "orders"), [(DPMSolver, (0, 3)), (UniPC, (0, 4))])
def test_orders_that_there_are(kind: Any, orders: tuple[int, int]) -> None:
    for order in orders:
        with pytest.raises(ConfigError, match="order must be 1"):
            kind(10, order)
