from __future__ import annotations

from torch import nn

from ldm.layers.basics import zeroed


def test_all_parameters_are_zero_and_still_learn() -> None:
    layer = zeroed(nn.Conv2d(3, 4, 3))
    for parameter in layer.parameters():
        assert not parameter.any()
        assert parameter.requires_grad
