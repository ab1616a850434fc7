from __future__ import annotations

from typing import Any

import pytest
import torch

from ldm.conditioners.layout import LayoutTransformer
from ldm.data.layouts.boxes import Box, BoxTokenizer
from ldm.errors import ConfigError
from tests.parity import assert_close, formula_weights, load_case


def test_golden() -> None:
    case = load_case("bert_embedder")
    c = case.config
    model = LayoutTransformer(c["n_embed"], c["n_layer"], c["vocab_size"], c["max_seq_len"])
    model.load_state_dict(case.weights)
    assert_close(model(case.inputs["tokens"]), case.outputs["z"])


@torch.no_grad()
def test_the_published_transformer_at_its_full_size() -> None:
    case = load_case("formula_bert")
    c = case.config
    model = LayoutTransformer(c["n_embed"], c["n_layer"])
    assert sum(p.numel() for p in model.parameters()) == c["parameters"] == 58858496
    formula_weights(model, c["seed"])
    z = model(case.inputs["tokens"])
    assert_close(z[..., :32], case.outputs["z_head"])
    assert_close(z.mean(-1), case.outputs["z_mean"])
    assert_close(z.std(-1), case.outputs["z_std"])


def test_takes_what_the_tokenizer_makes() -> None:
    tokens = BoxTokenizer(300)([Box(299, 0.1, 0.2, 0.7, 0.9, inside=True)])[None]
    model = LayoutTransformer(8, 1)
    assert model(tokens).shape == (1, 92, 8)
    assert (model.key, model.route, model.dim) == ("box_tokens", "crossattn", 8)


def test_null_is_the_layout_of_nothing() -> None:
    model = LayoutTransformer(8, 1, vocab_size=50, length=5, drop_prob=0.1)
    null = model.null(2, torch.zeros(3, 5).long())
    assert null.tolist() == [[49] * 5] * 2
    assert model(null).shape == (2, 5, 8)
    assert LayoutTransformer(8, 1, none=3).null(1, null).tolist() == [[3] * 5]


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.tensor([[0, 50]]), "^'box_tokens': token 50 is outside 0 to 49$"),
        (torch.tensor([[-1, 2]]), "token -1 is outside"),
        (torch.zeros(1, 5), r"'box_tokens' must be int64 ids of shape \(B, any\), got float32"),
        (torch.zeros(1, 6).long(), r"L <= 5"),
    ],
)
def test_other_tokens_are_refused(tokens: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LayoutTransformer(8, 1, vocab_size=50, length=5)(tokens)


@pytest.mark.parametrize("options", [{"none": 50}, {"none": -1}])
def test_none_is_a_token(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="outside 0 to 49"):
        LayoutTransformer(8, 1, vocab_size=50, length=5, **options)


def test_places_begin_alike_where_they_are_near() -> None:
    sizes: dict[str, Any] = {"dim": 32, "depth": 1, "vocab_size": 401, "length": 11}
    torch.manual_seed(0)
    random = LayoutTransformer(**sizes, embedding_std=0.1)
    torch.manual_seed(0)
    placed = LayoutTransformer(**sizes, embedding_std=0.1, first_place=24)
    old, new = random.state_dict(), placed.state_dict()
    key = "transformer.token_emb.weight"
    assert all(torch.equal(old[name], new[name]) for name in old if name != key)
    assert torch.equal(old[key][:24], new[key][:24])  # classes
    assert torch.equal(old[key][400], new[key][400])  # "none" is no place
    weight = new[key][:400]
    for start in (old[key], weight[24:], new["transformer.pos_emb.emb.weight"]):
        assert float(start.std()) == pytest.approx(0.1, rel=0.08)
    grid = weight.unflatten(0, (20, 20))
    distances = (grid - grid[10, 10]).norm(dim=2)
    assert distances[2:].flatten().argsort()[0] == 8 * 20 + 10
    near, far = distances[10, [9, 11]], distances[10, [2, 18]]
    assert torch.allclose(near, distances[[9, 11], 10])  # rows and columns alike
    assert near.max() < 0.5 * far.min()
    assert len(weight.unique(dim=0)) == 400
    with pytest.raises(ConfigError, match="first_place=401"):
        LayoutTransformer(**sizes, first_place=401)
