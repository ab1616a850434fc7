from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ldm.layers.basics import group_norm


@pytest.mark.parametrize(("options", "groups"), [({}, 32), ({"groups": 8}, 8)])
def test_groups(options: dict[str, int], groups: int) -> None:
    norm = group_norm(96, eps=1e-6, **options)
    assert (norm.num_groups, norm.num_channels, norm.eps) == (groups, 96, 1e-6)


@pytest.mark.parametrize("channels", [0, 16, 48, 100])
def test_other_widths_are_refused(channels: int) -> None:
    with pytest.raises(ValueError, match=rf"{channels} channels .* multiple of 32, or another"):
        group_norm(channels)


@pytest.mark.parametrize("groups", [0, -1, 5])
def test_other_groups_are_refused(groups: int) -> None:
    with pytest.raises(ValueError, match=f"48 channels .* in {groups} groups"):
        group_norm(48, groups=groups)


def test_close_to_float32_in_half_precision() -> None:
    norm = group_norm(64)
    x = (torch.randn(2, 64, 8, 8) + 100).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = norm(x)
    torch.testing.assert_close(got.float(), norm(x.float()), rtol=2**-7, atol=1e-3)


def test_the_result_has_the_dtype_of_the_input(monkeypatch: pytest.MonkeyPatch) -> None:
    def group_norm_of_cuda_autocast(x: Tensor, *_: object) -> Tensor:
        return x.float()

    monkeypatch.setattr(torch.nn.functional, "group_norm", group_norm_of_cuda_autocast)
    assert group_norm(32)(torch.zeros(1, 32, 2, 2).bfloat16()).dtype == torch.bfloat16
