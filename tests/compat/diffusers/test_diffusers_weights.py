"""Names of weights in diffusers: whole models there and back, and names of older files."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ldm.compat.compvis.weights import TRAINING_ONLY
from ldm.compat.diffusers.autoencoder import (
    from_diffusers,
    identity_convolution,
    is_diffusers,
    to_config,
    to_diffusers,
)
from tests.compat.first_stages import KINDS, build

OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("kind", KINDS)
def test_names_are_those_of_diffusers(kind: str) -> None:
    library: Any = pytest.importorskip("diffusers")
    state = build(KINDS[kind]).state_dict()
    config = to_config(KINDS[kind])
    theirs = getattr(library, config.pop("_class_name"))(**config).state_dict()
    ours = to_diffusers(state)
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
    kept = {key: value for key, value in state.items() if key not in TRAINING_ONLY}
    assert equal(from_diffusers(ours), kept)
    assert is_diffusers(ours)
    assert not is_diffusers(state)


def test_levels_of_the_decoder_are_counted_from_the_other_end() -> None:
    keys = [f"decoder.up_blocks.{i}.resnets.0.conv1.weight" for i in range(12)]
    renamed = list(from_diffusers(dict.fromkeys(keys, torch.ones(1))))
    assert renamed == [f"decoder.up.{11 - i}.block.0.conv1.weight" for i in range(12)]


def test_older_names_and_convolutions_in_the_attention() -> None:
    state = build(KINDS["kl-attention"]).state_dict()
    new = to_diffusers(state)
    old = {}
    for key, value in new.items():
        for name, before in OLD.items():
            key = key.replace(f".{name}.", f".{before}.")
        old[key] = value
    assert len(old.keys() - new.keys()) == 8 * (2 + 2 + 4), "weights and biases of 8 attentions"
    assert equal(from_diffusers(old), state)
    convolutions = {k: v[:, :, None, None] if v.ndim == 2 else v for k, v in new.items()}
    assert equal(from_diffusers(convolutions), state)


def test_unknown_names_are_left_for_strict_loading() -> None:
    known = to_diffusers(build(KINDS["kl"]).state_dict())
    odd = {"encoder.mid_block.resnets.7.x": torch.ones(1), "extra": torch.ones(2)}
    assert len(from_diffusers(known | odd)) == len(known) + 2


def test_identity_convolution() -> None:
    weights = identity_convolution("quant_conv", 3)
    x = torch.randn(2, 3, 4, 5)
    y = torch.nn.functional.conv2d(x, weights["quant_conv.weight"], weights["quant_conv.bias"])
    assert torch.equal(x, y)
