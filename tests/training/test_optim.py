from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from ldm.config import instantiate
from ldm.errors import ConfigError
from ldm.training.optim.making import LRPerSample, StepSchedule
from ldm.training.optim.schedules import Constant, CosineCycles, LinearCycles, WarmupCosine
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

    saved = StepSchedule(optimizer(), WarmupCosine(0, 10)).state_dict()
    resumed = StepSchedule(optimizer(), WarmupCosine(0, 1000))
    resumed.load_state_dict(saved)
    resumed.optimizer.step()
    for _ in range(10):
        resumed.step()
    assert resumed.get_last_lr()[0] > 0.99


@pytest.mark.parametrize("as_tensor", [False, True])
def test_the_first_step_after_a_resume_has_the_rate_of_the_config(as_tensor: bool) -> None:
    """The optimiser's state brings the rate that was saved; a changed one must not be ignored."""

    def made(lr: float, decay_steps: int) -> tuple[torch.optim.Optimizer, Any]:
        rate = torch.tensor(lr) if as_tensor else lr
        optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=rate)
        return optimizer, StepSchedule(optimizer, WarmupCosine(0, decay_steps))

    before, schedule = made(1.0, 10)
    for _ in range(4):
        before.step()
        schedule.step()
    for lr, decay_steps in ((1.0, 10), (0.5, 10), (1.0, 1000)):
        resumed, other = made(lr, decay_steps)
        resumed.load_state_dict(before.state_dict())
        other.load_state_dict(schedule.state_dict())
        rate = float(resumed.param_groups[0]["lr"])
        assert rate == pytest.approx(lr * WarmupCosine(0, decay_steps)(4), rel=1e-6)
        if (lr, decay_steps) == (1.0, 10):
            assert rate == float(before.param_groups[0]["lr"])  # bit by bit
        other.step()
        again = float(resumed.param_groups[0]["lr"])
        assert again == pytest.approx(lr * WarmupCosine(0, decay_steps)(5), rel=1e-6)


def test_the_rate_of_the_original_is_so_much_per_sample(caplog: pytest.LogCaptureFixture) -> None:
    config = {
        "data": {"params": {"batch_size": 48}},
        "optimizer": {
            "target": "ldm.training.LRPerSample",
            "params": {
                "optimizer": {"target": "torch.optim.AdamW", "partial": True},
                "base_lr": 1e-6,
                "batch_size": "${data.params.batch_size}",
            },
        },
    }
    with caplog.at_level(logging.INFO):
        make = instantiate(OmegaConf.create(config).optimizer, "optimizer")
        optimizer = make([torch.zeros(1, requires_grad=True)])
    assert optimizer.param_groups[0]["lr"] == pytest.approx(4.8e-5)
    assert "learning rate 4.8e-05 = base_lr 1e-06 x batch 48" in caplog.text
    with pytest.raises(ConfigError, match="must be positive"):
        LRPerSample(torch.optim.AdamW, base_lr=0.0, batch_size=4)
