from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ldm.diffusion.guidance import ClassifierFreeGuidance
from ldm.diffusion.schedule import NoiseSchedule
from tests.parity import assert_close

SCHEDULE = NoiseSchedule(timesteps=100)


def both(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Noise estimates 0.1 x (first half, unconditional) and 0.5 x (second half)."""
    n = len(x) // 2
    eps = torch.cat([0.1 * x[:n], 0.5 * x[n:]])
    return SCHEDULE.x0_from_eps(x, eps, t), eps


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_formula_and_consistency(scale: float) -> None:
    x, t = torch.randn(3, 2), torch.tensor([5, 50, 99])
    x0, eps = ClassifierFreeGuidance(both, scale)(x, t)
    assert_close(eps, (0.1 + scale * 0.4) * x, rtol=1e-5)
    assert_close(x0, SCHEDULE.x0_from_eps(x, eps, t), rtol=1e-4)


def test_one_pass_with_the_unconditional_half_first() -> None:
    seen = []

    def record(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        seen.append((x, t))
        return x, x

    x, t = torch.randn(2, 3), torch.tensor([1, 7])
    ClassifierFreeGuidance(record, 2.0)(x, t)
    ((x_seen, t_seen),) = seen
    assert torch.equal(x_seen, torch.cat([x, x]))
    assert t_seen.tolist() == [1, 7, 1, 7]
