from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ldm.conditioners.text import TextTransformer
from ldm.conditioners.tokenizers import BertTokenizer
from ldm.errors import ConfigError, DataError
from tests.conditioners.vocabulary import write
from tests.parity import assert_close, load_case


def test_bert_embedder_golden() -> None:
    case = load_case("bert_embedder")
    c = case.config
    model = TextTransformer(c["vocab_size"], c["n_embed"], c["n_layer"], c["max_seq_len"])
    model.load_state_dict(case.weights)
    assert_close(model(case.inputs["tokens"]), case.outputs["z"])


def test_transformer_embedder_golden() -> None:
    case = load_case("transformer_embedder")
    c = case.config
    model = TextTransformer(c["vocab_size"], c["n_embed"], c["n_layer"], c["max_seq_len"])
    model.load_state_dict(case.weights)
    for i in (0, 1):  # the second one is shorter than the longest sequence
        assert_close(model(case.inputs[f"tokens.{i}"]), case.outputs[f"z.{i}"])
    logits = model.transformer.to_logits(model(case.inputs["tokens.0"]))
    assert_close(logits, case.outputs["logits.0"])


def test_a_token_outside_the_vocabulary_is_named() -> None:
    with pytest.raises(DataError, match=r"^'tokens': token 11 is outside 0 to 10$"):
        TextTransformer(11, 16, 1, 6)(torch.tensor([[2, 11]]))


def test_null_is_the_empty_text(tmp_path: Path) -> None:
    tokenizer = BertTokenizer(write(tmp_path), length=6)
    model = TextTransformer(11, 16, 1, 6, tokenizer=tokenizer, drop_prob=0.1)
    tokens = tokenizer(["a red circle", "blue"])
    null = model.null(2, like=tokens)
    assert null.tolist() == [[2, 3, 0, 0, 0, 0]] * 2
    assert model(null).shape == (2, 6, 16)
    assert not torch.allclose(model(null), model(tokens))
    assert (model.key, model.route, model.drop_prob) == ("tokens", "crossattn", 0.1)


def test_without_a_tokenizer() -> None:
    with pytest.raises(ConfigError, match="'tokens' needs a tokenizer"):
        TextTransformer(11, 16, 1, 6, drop_prob=0.1)
    with pytest.raises(ConfigError, match="guidance needs a tokenizer"):
        TextTransformer(11, 16, 1, 6).null(1, torch.zeros(1, 6).long())


@pytest.mark.parametrize("options", [{"vocab_size": 10}, {"length": 7}])
def test_a_tokenizer_that_does_not_fit_is_refused(options: dict[str, Any], tmp_path: Path) -> None:
    tokenizer = BertTokenizer(write(tmp_path), length=6)
    sizes = {"vocab_size": 11, "dim": 16, "depth": 1, "length": 6, **options}
    with pytest.raises(ConfigError, match="makes 6 ids of 11, but the encoder takes"):
        TextTransformer(tokenizer=tokenizer, **sizes)
