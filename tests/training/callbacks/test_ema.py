from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from ldm.errors import CheckpointError
from ldm.training.callbacks.ema import EMA
from tests.parity import load_case

CASE = load_case("lit_ema")


def build() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    net[1].bias.requires_grad_(False)
    return net


def change(net: nn.Module) -> None:
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p))


@pytest.mark.parametrize("warmup", [True, False])
def test_golden(warmup: bool) -> None:
    net = nn.Sequential(nn.Linear(3, 4))
    net.load_state_dict({k.removeprefix("init."): v for k, v in CASE.weights.items()})
    net[0].bias.requires_grad_(False)
    ema = EMA(net, CASE.config["decay"], warmup)
    want = CASE.outputs["shadow" if warmup else "shadow_constant_decay"]
    for k, value in enumerate(CASE.inputs["param_sequence"]):
        net[0].weight.data.copy_(value)
        ema.update(net)
        atol = 2e-6 * want[k].abs().max().item()
        torch.testing.assert_close(ema.shadow["0.weight"], want[k], rtol=1e-5, atol=atol)
        if warmup:
            assert ema.current_decay() == pytest.approx(CASE.outputs["decays"][k].item(), rel=1e-6)
    assert list(ema.shadow) == ["0.weight"]
    assert ema.num_updates == len(want) == CASE.outputs["state.num_updates"]


def test_only_trainable_parameters_are_tracked() -> None:
    assert list(EMA(build()).shadow) == ["0.weight", "0.bias", "1.weight"]


def test_applied_swaps_and_restores_even_after_an_error() -> None:
    net = build()
    ema = EMA(net)
    first = copy.deepcopy(net.state_dict())
    change(net)
    live = copy.deepcopy(net.state_dict())
    with ema.applied(net):
        assert torch.equal(net[0].weight, first["0.weight"])
        assert torch.equal(net[1].bias, live["1.bias"])
    with pytest.raises(KeyError), ema.applied(net):
        raise KeyError
    for key, value in net.state_dict().items():
        assert torch.equal(value, live[key])
    assert torch.equal(ema.shadow["0.weight"], first["0.weight"])


def test_a_resumed_average_continues_exactly() -> None:
    net = build()
    ema = EMA(net, 0.9)
    for _ in range(3):
        change(net)
        ema.update(net)
    resumed = EMA(build(), 0.9)
    resumed.load_state_dict(copy.deepcopy(ema.state_dict()))
    change(net)
    for average in (ema, resumed):
        average.update(net)
    assert resumed.num_updates == 4
    for key, value in ema.shadow.items():
        assert torch.equal(resumed.shadow[key], value)


def test_copy_to_another_module() -> None:
    net, other = build(), build()
    ema = EMA(net)
    change(other)
    ema.copy_to(other)
    assert torch.equal(other[0].weight, net[0].weight)
    assert other[0].weight.requires_grad


def test_half_precision_weights_have_a_full_precision_average() -> None:
    net = nn.Linear(2, 2).to(torch.bfloat16)
    ema = EMA(net, 0.9999, warmup=False)
    before = ema.shadow["weight"].clone()
    change(net)
    ema.update(net)
    assert ema.shadow["weight"].dtype == torch.float32
    assert not torch.equal(ema.shadow["weight"], before)
    with ema.applied(net):
        assert net.weight.dtype == torch.bfloat16


def test_mismatches() -> None:
    ema = EMA(build())
    with pytest.raises(CheckpointError, match=r"first 'weight'|first '0.bias'"):
        ema.load_state_dict(EMA(nn.Linear(3, 4)).state_dict())
    state = ema.state_dict()
    state["shadow"] = state["shadow"] | {"0.weight": torch.zeros(5, 3)}
    with pytest.raises(CheckpointError, match=r"1 names or shapes differ, first '0.weight'"):
        ema.load_state_dict(state)
    with pytest.raises(ValueError, match="have changed"):
        ema.update(nn.Linear(3, 4))
    with pytest.raises(ValueError, match="decay"):
        EMA(build(), 1.5)
