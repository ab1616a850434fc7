from __future__ import annotations

import pytest
import torch

from ldm.diffusion.conditioning import (
    Conditioning,
    drop_values,
    encode_conditions,
    null_batch,
    stack,
)
from ldm.errors import DataError
from tests.diffusion.fakes import FakeLabels, FakeMap

BATCH = {"label": torch.tensor([1, 2, 3]), "map": torch.randn(3, 2, 4, 4), "caption": ["a"] * 3}


def test_routes() -> None:
    conditioners = [
        FakeLabels(),
        FakeMap(),
        FakeLabels(),
        FakeMap(),
        FakeLabels("adm"),
    ]
    cond = encode_conditions(conditioners, BATCH)
    assert cond.context is not None
    assert cond.concat is not None
    assert cond.context.shape == (3, 2, 4)
    assert torch.equal(cond.context[:, 1:], conditioners[2](BATCH["label"]))
    assert cond.concat.shape == (3, 4, 4, 4)
    assert torch.equal(cond.y, BATCH["label"])
    assert encode_conditions([], BATCH) == Conditioning()


def test_dropout_replaces_whole_values_before_encoding() -> None:
    labels = FakeLabels(drop_prob=0.3)
    value = torch.zeros(20000, dtype=torch.int64)
    dropped = drop_values(labels, value, torch.Generator().manual_seed(0))
    assert set(dropped.tolist()) == {0, 9}
    assert (dropped == 9).float().mean().item() == pytest.approx(0.3, abs=0.015)
    maps = drop_values(FakeMap(0.5), torch.ones(200, 2, 3, 3), torch.Generator().manual_seed(0))
    per_sample = maps.flatten(1).mean(1)
    assert set(per_sample.tolist()) == {0.0, 1.0}


def test_dropout_is_seeded_and_independent_for_each_conditioner() -> None:
    value = torch.zeros(400, dtype=torch.int64)
    pair = [FakeLabels("crossattn", 0.5, "a"), FakeLabels("adm", 0.5, "b")]

    def dropped(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        cond = encode_conditions(pair, {"a": value, "b": value}, True, generator)
        return cond.context[:, 0, 0] != pair[0].embedding.weight[0, 0], cond.y == 9

    a, b = dropped(0)
    again = dropped(0)
    assert torch.equal(a, again[0])
    assert torch.equal(b, again[1])
    assert not torch.equal(a, dropped(1)[0])
    assert (a & b).float().mean().item() == pytest.approx(0.25, abs=0.08)


def test_no_dropout_outside_training_or_at_probability_0() -> None:
    value = torch.zeros(50, dtype=torch.int64)
    for drop, probability in ((False, 0.9), (True, 0.0)):
        cond = encode_conditions([FakeLabels("adm", probability)], {"label": value}, drop)
        assert torch.equal(cond.y, value)


def test_null_batch_keeps_maps_that_were_never_dropped() -> None:
    entries = null_batch([FakeLabels(), FakeMap()], BATCH)
    assert entries["label"].tolist() == [9, 9, 9]
    assert entries["map"] is BATCH["map"]
    assert null_batch([FakeMap(0.1)], BATCH)["map"].abs().max() == 0


def test_stack() -> None:
    a = Conditioning(context=torch.zeros(2, 3, 4), y=torch.zeros(2))
    b = Conditioning(context=torch.ones(2, 3, 4), y=torch.ones(2))
    both = stack(a, b)
    assert both.context.flatten(1).mean(1).tolist() == [0, 0, 1, 1]
    assert both.y.tolist() == [0, 0, 1, 1]
    assert both.concat is None
    with pytest.raises(ValueError, match=r"context is \(2, 3, 4\) and None"):
        stack(a, Conditioning(y=torch.ones(2)))
    with pytest.raises(ValueError, match=r"\(2, 3, 4\) and \(2, 1, 4\)"):
        stack(a, Conditioning(context=torch.ones(2, 1, 4), y=torch.ones(2)))


def test_errors_name_the_entry() -> None:
    with pytest.raises(DataError, match="'label', but the batch has only: image, map"):
        encode_conditions([FakeLabels()], {"image": 0, "map": 0})
    with pytest.raises(DataError, match="'caption' must be a tensor for FakeLabels, got list"):
        encode_conditions([FakeLabels(key="caption")], BATCH)
    with pytest.raises(ValueError, match="at most one"):
        encode_conditions([FakeLabels("adm"), FakeLabels("adm")], BATCH)
