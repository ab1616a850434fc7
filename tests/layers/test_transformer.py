from __future__ import annotations

import pytest
import torch

from ldm.layers.transformer import TokenTransformer
from tests.parity import assert_close, formula_weights, load_case


def test_transformer_embedder_golden() -> None:
    case = load_case("transformer_embedder")
    model = TokenTransformer(vocab_size=40, dim=32, depth=1, length=9)
    model.load_state_dict({k.removeprefix("transformer."): v for k, v in case.weights.items()})
    for i in ("0", "1"):
        assert_close(model(case.inputs[f"tokens.{i}"]), case.outputs[f"z.{i}"])
    logits = model.to_logits(model(case.inputs["tokens.0"]))
    assert_close(logits, case.outputs["logits.0"])


def test_official_size_golden() -> None:
    case = load_case("formula_bert")
    c = case.config
    model = TokenTransformer(c["vocab_size"], c["n_embed"], c["n_layer"], c["max_seq_len"])
    assert sum(p.numel() for p in model.parameters()) == c["parameters"]
    formula_weights(model, c["seed"], prefix="transformer.")
    with torch.no_grad():
        z = model(case.inputs["tokens"])
    assert_close(z[..., :32], case.outputs["z_head"])
    assert_close(z.mean(dim=-1), case.outputs["z_mean"])
    assert_close(z.std(dim=-1), case.outputs["z_std"])


def test_every_parameter_that_learns_gets_a_gradient() -> None:
    model = TokenTransformer(vocab_size=10, dim=16, depth=2, length=5)
    (model(torch.tensor([[1, 2, 3, 4, 5]])) ** 3).sum().backward()
    learning = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in learning)
    assert len(learning) == len(list(model.parameters())) - 2  # to_logits


@pytest.mark.parametrize(
    "tokens", [torch.zeros(1, 6).long(), torch.zeros(5).long(), torch.zeros(1, 5)]
)
def test_other_shapes_and_types_are_refused(tokens: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="tokens must be int64"):
        TokenTransformer(vocab_size=10, dim=16, depth=1, length=5)(tokens)
