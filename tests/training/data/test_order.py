from __future__ import annotations

from collections import Counter
from itertools import chain

import pytest
import torch

from ldm.training.data.order import Order, Split, TrainingBatches, ValidationBatches

SPLITS = [(1, 1), (2, 1), (1, 2), (2, 2), (4, 1)]


def _batches(order: Order, world: int, parts: int, epoch: int, taken: int = 0) -> list[set[int]]:
    """The batches of an epoch, put together from all processes and parts."""
    shares = [
        list(TrainingBatches(order, Split(rank, world, parts), epoch, taken))
        for rank in range(world)
    ]
    assert len({len(share) for share in shares}) == 1
    micro = [list(chain(*part)) for part in zip(*shares, strict=True)]
    whole = [list(chain(*micro[i : i + parts])) for i in range(0, len(micro), parts)]
    assert all(e in (epoch, epoch - 1) for batch in whole for e, _ in batch)
    return [{index for _, index in batch} for batch in whole]


@pytest.mark.parametrize(("world", "parts"), SPLITS)
def test_processes_and_parts_share_the_same_batches(world: int, parts: int) -> None:
    order = Order(count=24, batch_size=8, seed=1)
    for epoch in range(3):
        assert _batches(order, world, parts, epoch) == _batches(order, 1, 1, epoch)
        assert set().union(*_batches(order, world, parts, epoch)) == set(range(24))


def test_every_row_comes_once_per_epoch_also_where_the_batch_does_not_divide() -> None:
    """Batches of one epoch after the other are a sequence of permutations, cut anew."""
    order = Order(count=10, batch_size=4, seed=0)
    rows = torch.cat([order.rows(epoch) for epoch in range(6)]).tolist()
    assert len(rows) == 6 * 10  # 15 batches of 4: none is lost
    assert [order.batches_in(epoch) for epoch in range(4)] == [2, 3, 2, 3]
    for epoch in range(6):
        assert sorted(rows[10 * epoch : 10 * (epoch + 1)]) == list(range(10))
    seen = Counter(rows[: 4 * order.batches_before(5)])
    assert set(seen.values()) <= {4, 5}  # all but the rows of a batch that waits for its epoch


@pytest.mark.parametrize(("count", "batch_size"), [(18, 4), (10, 4), (7, 7), (5, 3)])
def test_no_place_comes_twice(count: int, batch_size: int) -> None:
    """Draws are made from places: a row that waited for its epoch needs others than its next."""
    order = Order(count, batch_size, seed=0)
    places = [
        place
        for epoch in range(6)
        for batch in TrainingBatches(order, Split(), epoch)
        for place in batch
    ]
    assert len(set(places)) == len(places)
    assert places == [(i // count, row) for i, (_, row) in enumerate(places)]


def test_each_order_is_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    draw = torch.randperm
    monkeypatch.setattr(torch, "randperm", lambda n, **o: drawn.append(n) or draw(n, **o))
    order = Order(23, 4, seed=5)
    for epoch in range(4):
        list(TrainingBatches(order, Split(), epoch))
    assert len(drawn) == 4


def test_epochs_and_seeds_have_other_orders() -> None:
    first = Order(100, 100, seed=0)
    assert first.rows(0).tolist() != first.rows(1).tolist()
    assert first.rows(0).tolist() != Order(100, 100, seed=1).rows(0).tolist()
    assert first.rows(1).tolist() == Order(100, 100, seed=0).rows(1).tolist()


def test_an_epoch_goes_on_after_the_batches_taken_and_the_next_is_whole() -> None:
    order = Order(10, 3, seed=0)
    for epoch in range(4):
        whole = _batches(order, 1, 1, epoch)
        assert _batches(order, 1, 1, epoch, taken=2) == whole[2:]
    sampler = TrainingBatches(order, Split(), epoch=1, taken=2)
    assert len(list(sampler)) == order.batches_in(1) - 2
    sampler.set_epoch(1)  # the epoch it is in
    assert len(list(sampler)) == order.batches_in(1) - 2
    sampler.set_epoch(2)
    assert len(list(sampler)) == order.batches_in(2)


@pytest.mark.parametrize(("world", "parts"), SPLITS)
@pytest.mark.parametrize("count", [4, 5, 7, 8, 9, 16, 17, 23])
def test_validation_sees_every_row_once_and_no_batch_is_empty(
    count: int, world: int, parts: int
) -> None:
    shares = [list(ValidationBatches(count, 8, Split(r, world, parts))) for r in range(world)]
    assert len({len(share) for share in shares}) == 1
    assert all(batch for share in shares for batch in share)
    rows = [index for share in shares for batch in share for _, index in batch]
    assert sorted(rows) == list(range(count))


def test_validation_rows_have_the_same_place_in_any_split() -> None:
    """The place decides about the noise of a row."""

    def places(world: int, parts: int) -> dict[int, tuple[int, int, int]]:
        found = {}
        for rank in range(world):
            batches = ValidationBatches(22, 8, Split(rank, world, parts))
            for i, batch in enumerate(batches):
                place = batches.place(i)
                for offset, (_, row) in enumerate(batch):
                    found[row] = (place.block, place.start + offset, place.total)
        return found

    for world, parts in SPLITS:
        assert places(world, parts) == places(1, 1)
