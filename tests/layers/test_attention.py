from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ldm.layers.attention import (
    AttentionBlock,
    BasicTransformerBlock,
    CrossAttention,
    SpatialTransformer,
    to_map,
    to_tokens,
)
from tests.parity import assert_close, load_case


def under(prefix: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    prefix += "."
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}


def test_cross_attention_golden() -> None:
    case = load_case("cross_attention")
    layer = CrossAttention(24, 10, num_heads=3, head_dim=7)
    layer.load_state_dict(under("cross", case.weights))
    x = case.inputs["x"].requires_grad_()
    context = case.inputs["context"].requires_grad_()
    y = layer(x, context)
    (y * case.inputs["cotangent"]).sum().backward()
    assert_close(y, case.outputs["cross.y"])
    assert_close(x.grad, case.outputs["cross.grad_x"])
    assert_close(context.grad, case.outputs["cross.grad_context"])
    assert_close(layer(x, context, case.inputs["mask"]), case.outputs["masked.y"])


def test_self_attention_golden() -> None:
    case = load_case("cross_attention")
    layer = CrossAttention(24, num_heads=4, head_dim=6)
    layer.load_state_dict(under("self", case.weights))
    assert_close(layer(case.inputs["x"]), case.outputs["self.y"])


def test_basic_transformer_block_golden() -> None:
    case = load_case("basic_transformer_block")
    x, small, context = (case.inputs[k] for k in ("x", "x_small", "context"))
    block = BasicTransformerBlock(16, 2, 8, context_dim=12)
    block.load_state_dict(under("ctx", case.weights))
    assert_close(block(x, context), case.outputs["ctx.y"])
    assert_close(block(small, context), case.outputs["ctx.y_small"])
    block = BasicTransformerBlock(16, 2, 8)
    block.load_state_dict(under("noctx", case.weights))
    assert_close(block(x), case.outputs["noctx.y"])


def test_spatial_transformer_golden() -> None:
    case = load_case("spatial_transformer")
    layer = SpatialTransformer(32, num_heads=2, head_dim=6, depth=2, context_dim=9)
    layer.load_state_dict(case.weights)
    for name in ("", "_small"):
        got = layer(case.inputs[f"x{name}"], case.inputs["context"])
        assert_close(got, case.outputs[f"y{name}"])


@pytest.mark.parametrize("order", ["legacy", "new"])
@pytest.mark.parametrize(("heads", "name"), [(4, "heads"), (2, "headch")])
def test_attention_block_golden(order: str, heads: int, name: str) -> None:
    case = load_case("attention_blocks")
    block = AttentionBlock(32, heads, use_new_attention_order=order == "new")
    block.load_state_dict(under("attn", case.weights))
    assert_close(block(case.inputs["x"]), case.outputs[f"{order}_{name}.y"])


def test_uneven_heads_are_refused() -> None:
    with pytest.raises(ValueError, match=r"32 channels .* 5 heads"):
        AttentionBlock(32, 5)


@pytest.mark.parametrize("layer", [AttentionBlock(32, 2), SpatialTransformer(32, 2, 16)])
def test_starts_as_the_identity(layer: torch.nn.Module) -> None:
    x = torch.randn(2, 32, 3, 5)
    assert torch.equal(layer(x), x)


@pytest.mark.parametrize(
    "make", [lambda: AttentionBlock(32, 2), lambda: SpatialTransformer(32, 2, 16)]
)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_keeps_the_memory_format(make, memory_format: torch.memory_format) -> None:  # type: ignore[no-untyped-def]
    layer = make().to(memory_format=memory_format)
    x = torch.randn(2, 32, 3, 5).contiguous(memory_format=memory_format)
    assert layer(x).is_contiguous(memory_format=memory_format)


def test_tokens_run_row_by_row_and_back() -> None:
    x = torch.randn(2, 4, 3, 5)
    tokens = to_tokens(x)
    assert torch.equal(tokens[:, 5 + 2], x[:, :, 1, 2])
    assert tokens.is_contiguous()
    assert torch.equal(to_map(tokens, like=x), x)
    last = x.contiguous(memory_format=torch.channels_last)
    assert to_tokens(last).data_ptr() == last.data_ptr()
