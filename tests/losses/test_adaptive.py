from __future__ import annotations

import pytest
import torch

from ldm.losses.adaptive import adaptive_weight


def losses(nll_slope: float, g_slope: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    layer = torch.ones(4, requires_grad=True)
    return nll_slope * layer.sum(), g_slope * layer.sum(), layer


def test_ratio_of_gradient_norms() -> None:
    weight = adaptive_weight(*losses(3.0, 0.5))
    assert weight.item() == pytest.approx(6.0 / (1.0 + 1e-4))
    assert not weight.requires_grad


def test_limits() -> None:
    assert adaptive_weight(*losses(1e6, 1e-9)) == 1e4
    assert adaptive_weight(*losses(0.0, 1.0)) == 0
    with torch.no_grad():
        assert adaptive_weight(*losses(1.0, 1.0)) == 0


def test_the_graph_survives() -> None:
    nll, g, layer = losses(3.0, 0.5)
    (nll + adaptive_weight(nll, g, layer) * g).backward()
    assert layer.grad is not None


def test_float32_norms_of_half_precision_weights() -> None:
    layer = torch.ones(4, dtype=torch.bfloat16, requires_grad=True)
    assert adaptive_weight(3 * layer.sum(), layer.sum(), layer).dtype == torch.float32


def test_float32_under_autocast() -> None:
    torch.manual_seed(0)
    x, net = torch.randn(8, 16), torch.nn.Linear(16, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = net(x)
        weight = adaptive_weight(y.square().sum(), y.mean(), net.weight)
    assert weight.dtype == torch.float32
    y = net(x)
    exact = adaptive_weight(y.square().sum(), y.mean(), net.weight)
    torch.testing.assert_close(weight, exact, rtol=0.02, atol=0)
