from __future__ import annotations

from typing import Any

import pytest

from ldm.denoisers.unet import LayerFactory


def heads(channels: int, upsampling: bool = False, **options: Any) -> tuple[int, int]:
    defaults = {"emb_channels": 32, "num_heads": -1, "num_head_channels": -1}
    return LayerFactory(**(defaults | options)).heads(channels, upsampling)


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("upsampling", [True, False])
def test_attention_block(legacy: bool, upsampling: bool) -> None:
    options = {"legacy": legacy, "upsampling": upsampling}
    assert heads(64, num_head_channels=16, **options) == (4, 16)
    assert heads(64, num_heads=8, num_head_channels=16, **options) == (4, 16)
    assert heads(64, num_heads=8, **options) == (8, 8)
    want = (2, 32) if legacy and upsampling else (8, 8)
    assert heads(64, num_heads=8, num_heads_upsample=2, **options) == want


@pytest.mark.parametrize("upsampling", [True, False])
def test_spatial_transformer(upsampling: bool) -> None:
    options = {"use_spatial_transformer": True, "upsampling": upsampling, "num_heads_upsample": 2}
    for legacy in (True, False):
        assert heads(64, num_heads=8, legacy=legacy, **options) == (8, 8)
    assert heads(32, num_head_channels=12, legacy=True, **options) == (2, 16)
    assert heads(32, num_head_channels=12, legacy=False, **options) == (2, 12)


@pytest.mark.parametrize(
    "options",
    [{}, {"num_heads": 0}, {"num_heads": 64}, {"num_head_channels": 64}, {"num_head_channels": 0}],
)
def test_heads_that_do_not_fit_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="no attention head fits 32 channels"):
        heads(32, **options)
