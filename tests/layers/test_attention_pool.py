from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.layers.attention import AttentionPool
from tests.parity import assert_close


def pool_and_map(**options: int) -> tuple[AttentionPool, Tensor]:
    torch.manual_seed(0)
    pool = AttentionPool(size=3, channels=8, num_heads=2, **options)
    return pool, torch.randn(4, 8, 3, 3)


def test_names_and_shapes_are_the_published_ones() -> None:
    pool, x = pool_and_map(out_channels=5)
    assert {name: tuple(p.shape) for name, p in pool.named_parameters()} == {
        "positional_embedding": (8, 10),
        "qkv_proj.weight": (24, 8, 1),
        "qkv_proj.bias": (24,),
        "c_proj.weight": (5, 8, 1),
        "c_proj.bias": (5,),
    }
    assert pool(x).shape == (4, 5)
    assert pool_and_map()[0](x).shape == (4, 8)


def test_against_the_attention_of_torch() -> None:
    """The formula of CLIP with torch's own multi-head attention, of which one row is taken."""
    pool, x = pool_and_map(out_channels=5)
    nn.init.normal_(pool.qkv_proj.bias)  # type: ignore[arg-type]
    oracle = nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        oracle.in_proj_weight.copy_(pool.qkv_proj.weight[:, :, 0])
        oracle.in_proj_bias.copy_(pool.qkv_proj.bias)  # type: ignore[arg-type]
        oracle.out_proj.weight.copy_(torch.eye(8))
        oracle.out_proj.bias.zero_()
    positions = x.reshape(4, 8, 9)
    tokens = torch.cat([positions.mean(2, keepdim=True), positions], dim=2)
    tokens = (tokens + pool.positional_embedding).transpose(1, 2)
    attended, _ = oracle(tokens, tokens, tokens)
    expected = F.linear(attended[:, 0], pool.c_proj.weight[:, :, 0], pool.c_proj.bias)
    assert_close(pool(x), expected, rtol=1e-4)


def test_positions_matter() -> None:
    pool, x = pool_and_map()
    assert not torch.allclose(pool(x), pool(x.flip(3)), atol=1e-4)
    with torch.no_grad():
        pool.positional_embedding.zero_()
    assert_close(pool(x), pool(x.flip(3)), rtol=1e-4)


def test_the_embedding_starts_at_the_scale_of_clip() -> None:
    torch.manual_seed(0)
    pool = AttentionPool(size=16, channels=64, num_heads=4)
    assert pool.positional_embedding.std().item() == pytest.approx(64**-0.5, rel=0.02)


@pytest.mark.parametrize("side", [2, 4])
def test_another_size_is_refused(side: int) -> None:
    pool, _ = pool_and_map()
    with pytest.raises(ValueError, match=f"maps of 3x3, got {side}x{side}: choose the image_size"):
        pool(torch.zeros(1, 8, side, side))


@pytest.mark.parametrize(("size", "heads"), [(0, 2), (3, 3), (3, 0)])
def test_arguments_that_do_not_fit(size: int, heads: int) -> None:
    with pytest.raises(ValueError, match=r"nothing to pool|cannot be split"):
        AttentionPool(size, 8, heads)
