from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ldm.errors import ConfigError
from ldm.training import strategy as speed
from ldm.training.run import build
from ldm.training.strategy import StateLayout, speed_up
from tests.training import tiny


def test_kernels_become_channels_last_and_keep_their_values() -> None:
    task, _ = build(tiny.autoencoder())
    before = {key: value.clone() for key, value in task.state_dict().items()}
    speed_up(task, compiled=False)
    after = task.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    kernels = [p for p in task.model.parameters() if p.ndim == 4 and p.shape[2] == 3]
    assert kernels
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)
    maps = []
    task.model.decoder.mid.register_forward_hook(lambda _m, _i, output: maps.append(output))
    task.model.decode(torch.randn(1, 2, 8, 8))
    assert maps[0].is_contiguous(memory_format=torch.channels_last)


def test_compile_is_a_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    task, _ = build(tiny.autoencoder())
    compiled: list[nn.Module] = []
    monkeypatch.setattr(speed, "compile_networks", compiled.append)
    monkeypatch.setattr(shutil, "which", lambda name: name or None)
    speed_up(task, compiled=False)
    assert compiled == []
    speed_up(task, compiled=True)
    assert compiled == [task.model]
    with pytest.raises(ConfigError, match="compile: expected true or false, got 'yes'"):
        speed_up(task, compiled="yes")


def test_without_a_compiler_the_run_does_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    task, _ = build(tiny.autoencoder())
    with pytest.raises(ConfigError, match="needs a C\\+\\+ compiler"):
        speed_up(task, compiled=True)


def test_a_fused_optimiser_takes_on_a_state_in_another_order() -> None:
    """Checkpoints from before weights were channels_last have contiguous moments."""
    start = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    ends = []
    for layout in (torch.contiguous_format, torch.channels_last):
        weight = nn.Parameter(start.clone())
        optimizer = torch.optim.AdamW([weight], lr=0.1, fused=True)
        for step in range(4):
            if step == 2:
                state = optimizer.state_dict()
                weight = nn.Parameter(weight.detach().clone(memory_format=layout))
                optimizer = torch.optim.AdamW([weight], lr=0.1, fused=True)
                optimizer.load_state_dict(state)
                StateLayout().on_train_start(SimpleNamespace(optimizers=[optimizer]), None)
            weight.grad = weight.detach() * (step + 1) + start.sin()
            optimizer.step()
        ends.append(weight.detach())
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-6, atol=1e-6)
