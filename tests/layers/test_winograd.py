from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.layers.winograd import convolve

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
