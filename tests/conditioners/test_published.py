"""Every published text and class conditioner has the parameters of its checkpoint, in its order."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ldm.conditioners.base import Conditioner
from ldm.conditioners.class_label import ClassLabel
from ldm.conditioners.text import TextTransformer
from tests.parity import official_keys, official_names, published_configs

PREFIX = "cond_stage_model."
NAMES = [
    name
    for name in official_names()
    if official_keys(name)["counts"].get("cond_stage_class") in ("ClassEmbedder", "BERTEmbedder")
]


def build(kind: str, params: dict[str, Any]) -> Conditioner:
    if kind == "ClassEmbedder":
        return ClassLabel(params.get("n_classes", 1000), params["embed_dim"])
    length, vocab_size = params.get("max_seq_len", 77), params.get("vocab_size", 30522)
    return TextTransformer(vocab_size, params["n_embed"], params["n_layer"], length)


@pytest.mark.parametrize("name", NAMES)
def test_parameters(name: str) -> None:
    official = official_keys(name)
    config = published_configs()[official["config"]]["model"]["params"]["cond_stage_config"]
    with torch.device("meta"):
        model = build(official["counts"]["cond_stage_class"], config["params"])
    want = [
        [key.removeprefix(PREFIX), shape, f"torch.{dtype}"]
        for key, shape, dtype in official["state_dict"]
        if key.startswith(PREFIX)
    ]
    assert [[k, list(v.shape), str(v.dtype)] for k, v in model.state_dict().items()] == want
    assert sum(p.numel() for p in model.parameters()) == official["counts"]["cond_stage"]


def test_there_are_six() -> None:
    assert len(NAMES) == 6
