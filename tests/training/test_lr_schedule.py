from __future__ import annotations

from typing import Any

import pytest
import torch

from ldm.training.lr_schedule import Constant, CosineCycles, LinearCycles, WarmupCosine, scheduler
from tests.parity import load_case

CASE = load_case("lr_schedules")
CYCLE_NAMES = {
    "warm_up_steps": "warmup_steps",
    "cycle_lengths": "cycle_lengths",
    "f_start": "start",
    "f_max": "peak",
    "f_min": "end",
}
COSINE_NAMES = {
    "warm_up_steps": "warmup_steps",
    "max_decay_steps": "decay_steps",
    "lr_start": "start",
    "lr_max": "peak",
    "lr_min": "end",
}
SCHEDULES: dict[str, tuple[Any, dict[str, str]]] = {
    "cosine": (WarmupCosine, COSINE_NAMES),
    "cosine2": (CosineCycles, CYCLE_NAMES),
    "linear": (LinearCycles, CYCLE_NAMES),
    "linear_ldm": (LinearCycles, CYCLE_NAMES),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_golden(name: str) -> None:
    cls, names = SCHEDULES[name]
    schedule = cls(**{names[k]: v for k, v in CASE.config[name].items()})
    got = torch.tensor([schedule(n) for n in CASE.inputs[f"{name}.steps"].tolist()])
    torch.testing.assert_close(got, CASE.outputs[f"{name}.multiplier"], rtol=1e-5, atol=0)


def test_the_end_is_kept_beyond_the_last_cycle() -> None:
    options: Any = {
        "cycle_lengths": [10, 20],
        "warmup_steps": [2, 2],
        "start": [0.0, 0.0],
        "peak": [1.0, 0.5],
        "end": [0.2, 0.1],
    }
    for cls in (CosineCycles, LinearCycles):
        assert cls(**options)(30) == pytest.approx(0.1)
        assert cls(**options)(1000) == pytest.approx(0.1)
    assert WarmupCosine(2, 10, end=0.3)(1000) == pytest.approx(0.3)


def test_constant() -> None:
    assert [Constant()(n) for n in (0, 1, 100)] == [1, 1, 1]
    assert [Constant(4)(n) for n in (0, 1, 3, 4, 100)] == [0.25, 0.5, 1, 1, 1]


def test_with_torch() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, WarmupCosine(2, 4))
    rates = []
    for _ in range(5):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([0.0, 1.0, 2.0, 1.0, 0.0])


def test_lists_of_different_length() -> None:
    with pytest.raises(ValueError, match=r"got \[1, 2, 1, 1, 1\]"):
        CosineCycles([10], [1, 2], [0.0], [1.0], [0.0])


def test_a_resumed_run_follows_its_new_schedule() -> None:
    """LambdaLR would put the attributes of the old schedule over those of the new one."""

    def optimizer() -> torch.optim.Optimizer:
        return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)

    saved = scheduler(optimizer(), WarmupCosine(0, 10)).state_dict()
    resumed = scheduler(optimizer(), WarmupCosine(0, 1000))
    resumed.load_state_dict(saved)
    resumed.optimizer.step()
    for _ in range(10):
        resumed.step()
    assert resumed.get_last_lr()[0] > 0.99
