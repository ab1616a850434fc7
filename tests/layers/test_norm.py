from __future__ import annotations

import pytest
import torch

from ldm.layers.norm import group_norm


def test_thirty_two_groups() -> None:
    norm = group_norm(96, eps=1e-6)
    assert (norm.num_groups, norm.num_channels, norm.eps) == (32, 96, 1e-6)


@pytest.mark.parametrize("channels", [0, 16, 48, 100])
def test_other_widths_are_refused(channels: int) -> None:
    with pytest.raises(ValueError, match=rf"{channels} channels .* multiple of 32"):
        group_norm(channels)


def test_under_autocast_float32_inside_and_the_dtype_of_the_input_outside() -> None:
    norm = group_norm(64)
    x = (torch.randn(2, 64, 8, 8) + 100).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = norm(x)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, norm(x.float()).bfloat16())
