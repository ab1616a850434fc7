from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ldm.errors import ConfigError
from ldm.training.optim.making import make_optimizer
from ldm.training.optim.muon import RMS_OF_ADAMW, Muon, is_matrix, mark_tables, orthogonal


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(40, 24)
        self.conv = nn.Conv2d(16, 32, 3)
        self.narrow = nn.Conv2d(32, 4, 3)
        self.linear = nn.Linear(24, 48)


def _with_gradients(network: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def _network() -> Network:
    torch.manual_seed(0)
    network = Network()
    mark_tables(network)
    return network


def test_what_is_a_matrix() -> None:
    found = {name for name, p in _network().named_parameters() if is_matrix(p)}
    assert found == {"conv.weight", "linear.weight"}


@pytest.mark.parametrize("shape", [(3, 16, 40), (2, 64, 16), (1, 32, 32)])
def test_singular_values_become_about_one(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 7
    found = orthogonal(matrices)
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    turned = torch.linalg.svdvals(found)
    clear = values > 0.05 * values[:, :1]  # five iterations leave tiny ones small
    assert ((turned > 0.65) & (turned < 1.25))[clear].all()
    cosine = torch.cosine_similarity(found.flatten(1), (left @ right).flatten(1))
    assert (cosine > 0.95).all()


def test_autocast_changes_nothing() -> None:
    """Manual optimisation steps within it; bfloat16 lets directions without a gradient grow."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, 32, 4), (1, 4, 128)]
    of_rank_four = torch.matmul(*(torch.randn(shape, generator=generator) for shape in shapes))
    expected = orthogonal(of_rank_four)
    assert torch.linalg.svdvals(expected).max() < 1.25
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(orthogonal(of_rank_four), expected)


def test_against_the_muon_of_torch() -> None:
    torch.manual_seed(0)
    ours = nn.Linear(24, 48, bias=False)
    theirs = copy.deepcopy(ours)
    options: dict[str, Any] = {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1}
    one = Muon(ours.parameters(), **options)
    other = torch.optim.Muon(
        theirs.parameters(), nesterov=True, adjust_lr_fn="match_rms_adamw", **options
    )
    before = ours.weight.detach().clone()
    for step in range(4):
        for network, optimizer in ((ours, one), (theirs, other)):
            _with_gradients(network, step)
            optimizer.step()
    moved, expected = ours.weight - before, theirs.weight - before
    # theirs computes in bfloat16
    assert (moved - expected).norm() < 0.03 * expected.norm()


def test_all_else_is_updated_as_by_adamw() -> None:
    ours = _network()
    theirs = copy.deepcopy(ours)
    one = Muon(ours.parameters(), lr=0.01, weight_decay=0.1, betas=(0.8, 0.99))
    other = torch.optim.AdamW(theirs.parameters(), lr=0.01, weight_decay=0.1, betas=(0.8, 0.99))
    for step in range(3):
        for network, optimizer in ((ours, one), (theirs, other)):
            _with_gradients(network, step)
            optimizer.step()
    for name in ("table.weight", "narrow.weight", "narrow.bias", "conv.bias", "linear.bias"):
        torch.testing.assert_close(ours.get_parameter(name), theirs.get_parameter(name))


def test_an_update_is_as_large_as_one_of_adamw() -> None:
    network = _network()
    before = network.conv.weight.detach().clone()
    optimizer = Muon(network.parameters(), lr=0.01, weight_decay=0.0)
    _with_gradients(network, 0)
    optimizer.step()
    size = (network.conv.weight.detach() - before).square().mean().sqrt()
    assert size == pytest.approx(0.01 * RMS_OF_ADAMW, rel=0.25)  # singular values of 0.7 to 1.2


def test_the_layout_of_kernels_changes_nothing() -> None:
    plain = _network()
    turned = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    for network in (plain, turned):
        mark_tables(network)
        optimizer = Muon(network.parameters())
        for step in range(2):
            _with_gradients(network, step)
            optimizer.step()
    torch.testing.assert_close(turned.conv.weight, plain.conv.weight)
    assert turned.conv.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_saved_state_goes_on_alike() -> None:
    network = _network()
    optimizer = Muon(network.parameters(), lr=0.02)
    _with_gradients(network, 0)
    optimizer.step()
    resumed = copy.deepcopy(network)
    mark_tables(resumed)
    other = Muon(resumed.parameters())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one, part in ((network, optimizer), (resumed, other)):
        _with_gradients(one, 1)
        part.step()
    for a, b in zip(network.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_saved_state_goes_where_the_weights_are() -> None:
    network = _network()
    optimizer = Muon(network.parameters())
    _with_gradients(network, 0)
    optimizer.step()
    moved = copy.deepcopy(network).to("meta")
    mark_tables(moved)
    elsewhere = Muon(moved.parameters())
    elsewhere.load_state_dict(optimizer.state_dict())
    states = elsewhere.state.values()
    assert {value.device.type for state in states for value in state.values()} == {"meta"}


def test_parameters_without_gradients_stay() -> None:
    network = _network()
    before = [p.detach().clone() for p in network.parameters()]
    optimizer = Muon(network.parameters(), weight_decay=0.5)
    optimizer.step()
    network.linear.weight.grad = torch.ones_like(network.linear.weight)

    def closure() -> Tensor:
        return torch.tensor(3.0)

    assert optimizer.step(closure) == 3
    for old, (name, new) in zip(before, network.named_parameters(), strict=True):
        assert torch.equal(old, new) is (name != "linear.weight")


def test_groups_keep_their_own_options() -> None:
    network = _network()
    groups = [
        {"params": network.conv.parameters(), "lr": 1.0},
        {"params": network.linear.weight, "lr": 2.0},
    ]
    optimizer = Muon(groups, lr=3.0)
    found = [(group["lr"], group["matrices"]) for group in optimizer.param_groups]
    assert found == [(1.0, True), (1.0, False), (2.0, True)]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("lr", -1),
        ("momentum", 1),
        ("weight_decay", "much"),
        ("betas", [0.9]),
        ("betas", [0.9, 1]),
        ("eps", -1),
    ],
)
def test_bad_numbers_are_refused(option: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=option):
        make_optimizer(lambda p: Muon(p, **{option: value}), list(_network().parameters()))
