from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ldm.layers import winograd
from ldm.layers.convolution import Conv3x3, direct_convolutions
from ldm.layers.winograd import computed_once, constant_weights


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


def _layer(channels: int = 128, out_channels: int = 64) -> Conv3x3:
    torch.manual_seed(0)
    return Conv3x3(channels, out_channels)


def _recording(calls: list[Tensor]) -> Callable[[Tensor], Tensor]:
    def compute(weight: Tensor) -> Tensor:
        calls.append(weight)
        return weight

    return compute


def test_it_is_a_convolution_to_checkpoints() -> None:
    plain = nn.Conv2d(128, 64, 3, padding=1)
    layer = _layer()
    layer.load_state_dict(plain.state_dict())
    x = _map(1, 128, 32, 32)
    torch.testing.assert_close(layer(x), plain(x), rtol=1e-5, atol=1e-5)
    assert repr(layer).startswith("Conv3x3(128, 64, kernel_size=(3, 3)")


def test_wide_layers_on_large_maps_take_fewer_products(transformed: list[Tensor]) -> None:
    layer, large = _layer(), _map(4, 128, 16, 16)
    layer(large)
    assert len(transformed) == 1
    layer(_map(3, 128, 16, 16))  # few positions
    layer(large.contiguous())  # another layout
    layer.double()(large.double())
    _layer(64, 64)(_map(4, 64, 16, 16))  # few channels
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
    layer, x = _layer(), _map(1, 128, 16, 16)
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
