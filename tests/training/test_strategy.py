from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from pytorch_lightning.strategies import FSDPStrategy

from ldm.errors import ConfigError
from ldm.training.optim.muon import Muon
from ldm.training.strategy import check_sharding, whole_norm


def _task(scale_known: bool, optimizer: Callable[..., Any] = torch.optim.AdamW) -> Any:
    weights = [torch.zeros(32, 32, requires_grad=True)]
    return SimpleNamespace(
        automatic_optimization=True,
        preview=None,
        model=SimpleNamespace(has_scale_factor=scale_known),
        configure_optimizers=lambda: {"optimizer": optimizer(weights)},
    )


TASK = _task(False)


def test_all_that_has_to_change_is_named_at_once() -> None:
    with pytest.raises(ConfigError, match=r"ema_decay=null, every.images=0, a number for scale"):
        check_sharding("fsdp_cpu_offload", TASK, 0.99, 500)
    check_sharding("fsdp", _task(True), None, 0)
    with pytest.raises(ConfigError, match=r"needs torch.optim.AdamW in place of ldm.training.Muon"):
        check_sharding("fsdp", _task(True, Muon), None, 0)
    check_sharding("ddp", _task(True, Muon), None, 0)
    check_sharding("ddp", TASK, 0.99, 500)
    with pytest.raises(ConfigError, match="two optimisers"):
        check_sharding("fsdp", SimpleNamespace(automatic_optimization=False), None, 0)
    with pytest.raises(ConfigError, match="deepspeed_stage_2 is not supported"):
        check_sharding("deepspeed_stage_2", TASK, None, 0)


@pytest.mark.parametrize(
    "form",
    [lambda one: one, lambda one: [one], lambda one: ([one], [{"scheduler": None}])],
)
def test_a_task_gives_its_optimisers_in_any_form_that_lightning_takes(
    form: Callable[[Any], Any],
) -> None:
    task = _task(True)
    weight = torch.zeros(32, 32, requires_grad=True)
    task.configure_optimizers = lambda: form(torch.optim.AdamW([weight]))
    check_sharding("fsdp", task, None, 0)
    task.configure_optimizers = lambda: form(Muon([weight]))
    with pytest.raises(ConfigError, match=r"AdamW in place of ldm.training.Muon"):
        check_sharding("fsdp", task, None, 0)


def test_the_norm_counts_gradients_of_all_processes_where_each_has_a_part() -> None:
    parts = torch.tensor([3.0, 4.0])
    assert whole_norm(Mock(), parts) == 5
    sharded = Mock(spec=FSDPStrategy)
    sharded.reduce = lambda value, reduce_op: value + 144 if reduce_op == "sum" else None
    assert whole_norm(sharded, parts) == 13
