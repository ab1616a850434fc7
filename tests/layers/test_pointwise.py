from __future__ import annotations

import pytest
import torch
from torch import nn

from ldm.layers.convolution import PointwiseConv2d, project, to_tokens

LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_pointwise_convolution_is_a_convolution(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    layer = PointwiseConv2d(6, 4).to(memory_format=layout)
    x = torch.randn(2, 6, 3, 5).contiguous(memory_format=layout)
    y = layer(x)
    torch.testing.assert_close(y, nn.functional.conv2d(x, layer.weight, layer.bias))
    assert y.is_contiguous(memory_format=layout)
    assert {k: tuple(v.shape) for k, v in layer.state_dict().items()} == {
        "weight": (4, 6, 1, 1),
        "bias": (4,),
    }


def test_channels_last_maps_are_not_copied() -> None:
    layer = PointwiseConv2d(6, 6)
    nn.init.dirac_(layer.weight)
    x = torch.randn(2, 6, 3, 5).contiguous(memory_format=torch.channels_last)
    names = []
    with torch.profiler.profile() as profile:
        layer(x)
    names = {event.key for event in profile.key_averages()}
    assert "aten::addmm" in names
    assert not names & {"aten::clone", "aten::convolution"}


@pytest.mark.parametrize("layer", [nn.Linear(6, 4), nn.Conv1d(6, 4, 1), nn.Conv2d(6, 4, 1)])
def test_projections_of_every_kind_act_on_tokens(layer: nn.Module) -> None:
    tokens = to_tokens(torch.randn(2, 6, 3, 5))
    weight = layer.weight.reshape(4, 6)
    torch.testing.assert_close(project(layer, tokens), tokens @ weight.T + layer.bias)
