from __future__ import annotations

from typing import Any

import pytest
import torch

from ldm.layers.resblock import ResBlock


def block(**options: Any) -> ResBlock:
    torch.manual_seed(0)
    layer = ResBlock(32, 16, **options)
    torch.nn.init.normal_(layer.out_layers[3].weight, std=0.1)
    return layer


def test_starts_as_the_identity() -> None:
    x = torch.randn(2, 32, 5, 4)
    assert torch.equal(ResBlock(32, 16)(x, torch.randn(2, 16)), x)


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (2, 32, 6, 4)),
        ({"out_channels": 64}, (2, 64, 6, 4)),
        ({"up": True}, (2, 32, 12, 8)),
        ({"down": True, "out_channels": 64}, (2, 64, 3, 2)),
    ],
)
@pytest.mark.parametrize("use_scale_shift_norm", [True, False])
def test_shapes_and_gradients(
    options: dict[str, Any], shape: tuple[int, ...], use_scale_shift_norm: bool
) -> None:
    x, emb = torch.randn(2, 32, 6, 4), torch.randn(2, 16, requires_grad=True)
    layer = block(**options, use_scale_shift_norm=use_scale_shift_norm)
    y = layer(x, emb)
    assert y.shape == shape
    (y * torch.randn_like(y)).sum().backward()
    if use_scale_shift_norm or layer.out_layers[0].num_channels > 32:
        assert emb.grad.abs().max() > 1e-3  # with one channel per group an addition cancels


def test_up_and_down_are_refused() -> None:
    with pytest.raises(ValueError, match="not both"):
        ResBlock(32, 16, up=True, down=True)


def test_keeps_channels_last() -> None:
    x = torch.randn(2, 32, 6, 4).contiguous(memory_format=torch.channels_last)
    y = block(out_channels=64).to(memory_format=torch.channels_last)(x, torch.randn(2, 16))
    assert y.is_contiguous(memory_format=torch.channels_last)
