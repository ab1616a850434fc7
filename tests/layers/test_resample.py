from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ldm.layers import convolution as resample
from ldm.layers.convolution import (
    Downsample,
    DownsampleRightBottom,
    Upsample,
    double,
    double_and_convolve,
    halve,
)


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


@pytest.mark.parametrize("shape", [(1, 3, 5, 4), (2, 3, 1, 1), (2, 3, 1, 6)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_four_small_kernels_are_one_on_the_doubled_map(
    shape: tuple[int, ...], layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(4, dtype=torch.float64, requires_grad=True)
    cotangent = torch.randn(shape[0], 4, 2 * shape[2], 2 * shape[3], dtype=torch.float64)
    ours = double_and_convolve(x, weight, bias)
    plain = F.conv2d(double(x), weight, bias, padding=1)
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(
        torch.autograd.grad((ours * cotangent).sum(), [x, weight, bias]),
        torch.autograd.grad((plain * cotangent).sum(), [x, weight, bias]),
    )
    torch.testing.assert_close(
        double_and_convolve(x, weight, None), F.conv2d(double(x), weight, padding=1)
    )


def test_large_maps_are_doubled_with_less_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def spy(*args: torch.Tensor) -> torch.Tensor:
        calls.append(len(args[0]))
        return double_and_convolve(*args)

    monkeypatch.setattr(resample, "double_and_convolve", spy)
    torch.manual_seed(0)
    layer = Upsample(4)
    large, small = torch.randn(2, 4, 16, 16), torch.randn(1, 4, 16, 16)
    with torch.no_grad():
        result = layer(large)
        assert calls == [2]
        layer(small)
    layer(large)  # with gradients only where there are many channels
    assert calls == [2]
    torch.testing.assert_close(result, layer.conv(double(large)), rtol=1e-5, atol=1e-5)
