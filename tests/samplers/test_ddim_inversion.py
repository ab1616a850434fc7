from __future__ import annotations

import pytest
import torch
from gaussian_mixture import Mixture
from torch import Tensor

from ldm.diffusion.guidance import ClassifierFreeGuidance
from ldm.diffusion.schedule import NoiseSchedule
from ldm.errors import ConfigError
from ldm.samplers.ddim import DDIM
from ldm.samplers.ddim_inversion import DDIMInversion
from ldm.samplers.timesteps import noise_levels

SCHEDULE = NoiseSchedule("linear", 1000, 0.0015, 0.0195)
MIXTURE = Mixture.random()


def data(n: int = 50) -> Tensor:
    """Samples of the mixture."""
    start = torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    level = noise_levels(SCHEDULE, torch.tensor([999]))[0]
    return torch.from_numpy(MIXTURE.flow(start.numpy(), level))


def round_trip(refinements: int, scale: float | None = None, spacing: str = "logsnr") -> float:
    """RMS distance between data and what DDIM makes of their inversion."""
    denoise, x = MIXTURE.denoiser(SCHEDULE, scale), data()
    *_, noised = DDIMInversion(20, spacing, refinements)(denoise, x, SCHEDULE)
    *_, back = DDIM(20, spacing=spacing)(denoise, noised.x, SCHEDULE, torch.zeros_like)
    return float((back.x - x).square().mean().sqrt())


def test_refinements_lead_to_the_exact_inverse() -> None:
    errors = [round_trip(n) for n in (0, 2, 8, 40)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] < 0.2
    assert errors[1] < 0.1 * errors[0]
    assert errors[3] < 1e-6 * errors[0]


def test_they_help_with_long_steps_and_with_guidance() -> None:
    """There they do not converge for every point."""
    assert round_trip(2, spacing="uniform") < 0.5 * round_trip(0, spacing="uniform")
    assert round_trip(2, scale=2.0) < round_trip(0, scale=2.0)


def test_steps_and_evaluations() -> None:
    calls: list[int] = []

    def denoise(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(int(t[0]))
        return 0 * x, x

    steps = list(DDIMInversion(5, "uniform", 1)(denoise, torch.ones(1, 2), SCHEDULE))
    assert [step.t for step in steps] == [1, 201, 401, 601, 801]
    assert calls == [t for t in (1, 201, 401, 601, 801) for _ in range(2)]
    assert [step.index for step in steps] == [0, 1, 2, 3, 4]


def test_exact_at_once_where_the_estimate_does_not_depend_on_x() -> None:
    eps = torch.randn(3, 2, generator=torch.Generator().manual_seed(1))

    def both(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        doubled = torch.cat([eps, eps]) if len(x) == 6 else eps
        return SCHEDULE.x0_from_eps(x, doubled, t), doubled

    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(2))
    for denoise in (both, ClassifierFreeGuidance(both, 3.0)):
        *_, noised = DDIMInversion(10, "uniform", 0)(denoise, x, SCHEDULE)
        *_, back = DDIM(10)(denoise, noised.x, SCHEDULE, torch.zeros_like)
        torch.testing.assert_close(back.x, x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{"steps": 0}, {"refinements": -1}, {"spacing": "cubic"}])
def test_errors(options: dict) -> None:
    with pytest.raises(ConfigError):
        DDIMInversion(**options)
