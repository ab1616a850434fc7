from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.layers import cpu
from ldm.layers.attention import FeedForward


def expected(layer: FeedForward, x: Tensor) -> Tensor:
    value, gate = layer.net[0].proj(x).chunk(2, dim=-1)
    return layer.net[2](value * F.gelu(gate))


@pytest.mark.parametrize("shape", [(2, 300, 8), (1, 257, 8), (3, 1, 8), (2, 4, 70, 8)])
def test_in_parts_or_at_once_the_result_is_the_same(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "CACHED", 1)
    monkeypatch.setattr(cpu, "LEAST_PARTS", 1)
    torch.manual_seed(0)
    layer, x = FeedForward(8), torch.randn(shape)
    torch.testing.assert_close(layer(x), expected(layer, x))
    rows: list[int] = []
    layer.net[2].register_forward_hook(lambda _m, _i, output: rows.append(len(output)))
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected(layer, x))
    positions = x.numel() // 8
    parts = rows[: -(-positions // 256)]
    assert sum(parts) == positions
    assert max(parts) <= 256


def test_gradients_of_both_halves() -> None:
    torch.manual_seed(0)
    layer, x = FeedForward(8), torch.randn(2, 5, 8, requires_grad=True)
    ours = torch.autograd.grad(layer(x).square().sum(), [x, *layer.parameters()])
    plain = torch.autograd.grad(expected(layer, x).square().sum(), [x, *layer.parameters()])
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other)


def test_dropout_acts_only_in_training() -> None:
    layer, x = FeedForward(8, dropout=0.5), torch.ones(1, 400, 8)
    nn.init.zeros_(layer.net[2].bias)
    with torch.no_grad():
        assert not torch.equal(layer(x), layer(x))
        layer.eval()
        assert torch.equal(layer(x), layer(x))


def test_few_positions_are_worked_on_at_once() -> None:
    layer, shapes = FeedForward(8), []
    layer.net[2].register_forward_hook(lambda _m, _i, output: shapes.append(output.shape))
    with torch.no_grad():
        layer(torch.ones(2, 4096, 8))
    assert shapes == [(2, 4096, 8)]
