from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ldm.layers import winograd
from ldm.layers.convolution import Conv3x3
from ldm.layers.cpu import direct_convolutions
from ldm.layers.winograd import computed_once, constant_weights, convolve

SHAPES = [
    (1, 3, 4, 4, 4),
    (2, 2, 3, 5, 9),  # sides that tiles do not divide
    (3, 1, 2, 1, 1),
    (70, 2, 3, 4, 4),  # more tiles than are worked on at a time: many images,
    (2, 2, 3, 36, 40),  # rows of one,
    (1, 1, 1, 8, 272),  # and rows that are longer than that
]
"""Images, channels, output channels, height, width."""


def _inputs(
    shape: tuple[int, ...], dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n, channels, out_channels, height, width = shape
    generator = torch.Generator().manual_seed(0)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, dtype=dtype, generator=generator)

    x = draw(n, channels, height, width).contiguous(memory_format=torch.channels_last)
    weight = draw(out_channels, channels, 3, 3) / (9 * channels) ** 0.5
    return x, weight, draw(out_channels), draw(n, out_channels, height, width)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("biased", [True, False])
def test_it_is_the_convolution_with_its_gradients(
    shape: tuple[int, ...], biased: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # so that there are several parts
    x, weight, bias, cotangent = _inputs(shape)
    wanted = [x, weight, bias] if biased else [x, weight]
    for tensor in wanted:
        tensor.requires_grad_()
    ours = convolve(x, weight, bias if biased else None)
    plain = F.conv2d(x, weight, bias if biased else None, padding=1)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(
        torch.autograd.grad(ours, wanted, cotangent),
        torch.autograd.grad(plain, wanted, cotangent),
    )


def test_maps_of_any_layout() -> None:
    x, weight, bias, _ = _inputs((2, 3, 4, 6, 8))
    torch.testing.assert_close(
        convolve(x.contiguous(), weight.contiguous(memory_format=torch.channels_last), bias),
        F.conv2d(x, weight, bias, padding=1),
    )


def test_only_wanted_gradients_are_made() -> None:
    x, weight, bias, cotangent = _inputs((1, 2, 3, 4, 4))
    bias.requires_grad_()
    convolve(x, weight, bias).backward(cotangent)
    torch.testing.assert_close(bias.grad, cotangent.sum((0, 2, 3)))
    assert x.grad is None
    assert weight.grad is None


def test_gradients_have_gradients() -> None:
    x, weight, bias, _ = _inputs((1, 2, 2, 4, 5))
    inputs = [tensor.requires_grad_() for tensor in (x, weight, bias)]
    assert torch.autograd.gradgradcheck(convolve, inputs)


def test_rounding_errors_are_small() -> None:
    x, weight, bias, cotangent = _inputs((2, 256, 128, 16, 16))
    exact = [x, weight, bias]
    rounded = [tensor.float() for tensor in exact]

    def results(function: object, inputs: list[Tensor]) -> list[Tensor]:
        inputs = [tensor.detach().requires_grad_() for tensor in inputs]
        y = function(*inputs)  # type: ignore[operator]
        return [y, *torch.autograd.grad(y, inputs, cotangent.to(y.dtype))]

    def plain(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.conv2d(x, weight, bias, padding=1)

    names = ["result", "input", "weight", "bias"]
    right, ours = results(plain, exact), results(convolve, rounded)
    for name, one, other in zip(names, ours, right, strict=True):
        error = (one - other).abs().max() / other.abs().max()
        assert error < 5e-6, f"{name}: {error:.1e}"


def test_an_activation_may_follow_in_place() -> None:
    x, weight, bias, cotangent = _inputs((1, 2, 3, 4, 5))
    weight.requires_grad_()
    (ours,) = torch.autograd.grad(convolve(x, weight, bias).relu_(), [weight], cotangent)
    plain = F.conv2d(x, weight, bias, padding=1).relu()
    torch.testing.assert_close(ours, *torch.autograd.grad(plain, [weight], cotangent))


# -- where it is used --------------------------------------------------------------------------


@pytest.fixture
def transformed(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The weights that were taken to the points."""
    weights: list[Tensor] = []
    original = winograd._transformed

    def spy(weight: Tensor) -> Tensor:
        weights.append(weight)
        return original(weight)

    monkeypatch.setattr(winograd, "_transformed", spy)
    return weights


def _map(*shape: int) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return x.contiguous(memory_format=torch.channels_last)


def _layer(channels: int = 128, out_channels: int = 128) -> Conv3x3:
    torch.manual_seed(0)
    return Conv3x3(channels, out_channels)


def _recording(calls: list[Tensor]) -> Callable[[Tensor], Tensor]:
    def compute(weight: Tensor) -> Tensor:
        calls.append(weight)
        return weight

    return compute


def test_wide_layers_on_large_maps_take_fewer_products(transformed: list[Tensor]) -> None:
    layer, large = _layer(), _map(4, 128, 16, 16)
    layer(large)
    assert len(transformed) == 1
    layer(_map(3, 128, 16, 16))  # few positions
    layer(large.contiguous())  # another layout
    layer.double()(large.double())
    _layer(64, 64)(_map(16, 64, 16, 16))  # few channels
    with torch.no_grad():  # gradients of weights gain the most
        layer.float()(large)
        layer.double()
    _layer(512, 512)(_map(4, 512, 8, 8))  # few positions, though many values
    _layer(1024, 512)(_map(1, 1024, 32, 32))  # a large kernel
    layer.float()(_map(64, 128, 5, 5))  # maps that tiles do not fit
    with direct_convolutions():
        layer(large)
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        layer(fake.from_tensor(large))
    with pytest.raises(RuntimeError, match=r"to have 128 channels, but got 256 channels"):
        layer(_map(4, 256, 16, 16))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer.float()(large)
    assert len(transformed) == 1


def test_constant_weights_are_transformed_once(transformed: list[Tensor]) -> None:
    layer, x = _layer(), _map(1, 128, 32, 32)
    with torch.no_grad():
        plain = layer(x)  # too few positions for one use
        with constant_weights():
            kept = layer(x)
            with constant_weights():
                layer(x)
            layer(x)
        assert len(transformed) == 1
        torch.testing.assert_close(kept, plain, rtol=1e-5, atol=1e-5)
        layer.weight.data.zero_()
        with constant_weights():
            assert torch.equal(layer(x), layer.bias[:, None, None].expand_as(plain))
        assert len(transformed) == 2


def test_kernels_are_kept_with_gradients_too(transformed: list[Tensor]) -> None:
    layer, x = _layer(), _map(4, 128, 16, 16).requires_grad_()
    with constant_weights():
        for _ in range(2):
            layer(x).sum().backward()
    assert len(transformed) == 1


def test_the_promise_is_that_of_one_thread() -> None:
    calls: list[Tensor] = []
    compute = _recording(calls)

    def elsewhere() -> None:
        for _ in range(2):
            computed_once(compute, weight)

    weight = nn.Parameter(torch.ones(1))
    with constant_weights():
        for _ in range(2):
            computed_once(compute, weight)
        assert len(calls) == 1
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert len(calls) == 3
    computed_once(compute, weight)
    assert len(calls) == 4


def test_the_promise_ends_with_an_error() -> None:
    calls: list[Tensor] = []
    compute = _recording(calls)

    weight = nn.Parameter(torch.ones(1))
    with pytest.raises(KeyError), constant_weights():
        raise KeyError
    for _ in range(2):
        computed_once(compute, weight)
    assert len(calls) == 2
