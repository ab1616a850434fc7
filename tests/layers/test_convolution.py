from __future__ import annotations

import pytest
import torch
from torch import nn

from ldm.layers.convolution import (
    Conv3x3,
    Downsample,
    DownsampleRightBottom,
    Upsample,
    double,
    halve,
    project,
    to_tokens,
)


def test_it_is_a_convolution_to_checkpoints() -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(128, 64, 3, padding=1)
    layer = Conv3x3(128, 64)
    layer.load_state_dict(plain.state_dict())
    x = torch.randn(1, 128, 32, 32).contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(layer(x), plain(x), rtol=1e-5, atol=1e-5)
    assert repr(layer).startswith("Conv3x3(128, 64, kernel_size=(3, 3)")


@pytest.mark.parametrize("layer", [nn.Linear(6, 4), nn.Conv1d(6, 4, 1), nn.Conv2d(6, 4, 1)])
def test_projections_of_every_kind_act_on_tokens(layer: nn.Module) -> None:
    tokens = to_tokens(torch.randn(2, 6, 3, 5))
    weight = layer.weight.reshape(4, 6)
    torch.testing.assert_close(project(layer, tokens), tokens @ weight.T + layer.bias)


def test_double_undoes_on_constant_squares_and_halve_averages() -> None:
    x = torch.arange(24.0).reshape(1, 2, 3, 4)
    assert torch.equal(halve(double(x)), x)
    assert halve(x)[0, 0].tolist() == [[2.5, 4.5]]


@pytest.mark.parametrize("use_conv", [True, False])
def test_shapes_at_odd_sides(use_conv: bool) -> None:
    x = torch.randn(1, 4, 7, 8)
    assert Upsample(4, use_conv)(x).shape == (1, 4, 14, 16)
    assert Downsample(4, use_conv)(x).shape == (1, 4, 4 if use_conv else 3, 4)
    assert DownsampleRightBottom(4, use_conv)(x).shape == (1, 4, 3, 4)


def test_padding_is_right_and_bottom_only() -> None:
    layer = DownsampleRightBottom(1)
    torch.nn.init.ones_(layer.conv.weight)
    torch.nn.init.zeros_(layer.conv.bias)
    sums = layer(torch.ones(1, 1, 4, 4))[0, 0]
    assert sums.tolist() == [[9.0, 6.0], [6.0, 4.0]]


def test_kernel_names() -> None:
    assert set(Downsample(4).state_dict()) == {"op.weight", "op.bias"}
    assert set(DownsampleRightBottom(4).state_dict()) == {"conv.weight", "conv.bias"}
    assert set(Upsample(4).state_dict()) == {"conv.weight", "conv.bias"}
    for layer in (Downsample, DownsampleRightBottom, Upsample):
        assert not layer(4, use_conv=False).state_dict()
