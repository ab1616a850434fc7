"""Random numbers that depend on the place in training, and on nothing else."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from ldm.data.items import ReadableItems
from ldm.layers.rng import BatchGenerator, draw_integers, draw_normal, draw_uniform
from ldm.training.data.order import Order, Split, TrainingBatches
from ldm.training.data.position import Position
from ldm.training.data.seeded import SeededItems, StepRandomness
from ldm.training.data.seeding import aside, key, seed_global

CPU = torch.device("cpu")


def _parts(sizes: list[int], own: int = 0) -> list[BatchGenerator]:
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [
        BatchGenerator(CPU, 7, own + i, start, start + size, sum(sizes))
        for i, (start, size) in enumerate(zip(starts, sizes, strict=True))
    ]


def test_the_parts_of_a_batch_draw_what_the_whole_draws() -> None:
    def draws(generator: BatchGenerator, size: int) -> list[torch.Tensor]:
        return [
            draw_normal((size, 2, 3), generator, CPU),
            draw_integers(5, 50, (size,), generator, CPU),
            draw_uniform((size,), generator, CPU),
        ]

    whole = draws(_parts([8])[0], 8)
    for sizes in ([4, 4], [2, 2, 2, 2], [3, 5]):
        parts = [draws(g, n) for g, n in zip(_parts(sizes), sizes, strict=True)]
        for i, expected in enumerate(whole):
            assert torch.equal(torch.cat([part[i] for part in parts]), expected)
    assert (whole[1] >= 5).all()
    narrow = _parts([4, 4])[1].narrow(1, 2)  # rows 5 and 6
    assert torch.equal(draw_normal((2, 2, 3), narrow, CPU), whole[0][5:7])


def test_code_that_knows_nothing_of_parts_draws_other_numbers_in_each() -> None:
    first, second = _parts([4, 4])
    assert not torch.equal(torch.randn(4, generator=first), torch.randn(4, generator=second))
    first, second = _parts([4, 4])
    # nor do calls for another number of samples than the part has give the same rows twice
    assert not torch.equal(draw_normal((3,), first, CPU), draw_normal((3,), second, CPU))


def test_without_parts_draws_are_those_of_torch() -> None:
    drawn = draw_normal((3, 2), torch.Generator().manual_seed(1), CPU, torch.float64)
    expected = torch.randn((3, 2), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.equal(drawn, expected)


def _step(seed: int, batches: int, part: int = 0, rank: int = 0) -> tuple[Any, Any]:
    position = Position()
    position.batches, position.part = batches, part
    trainer = SimpleNamespace(global_rank=rank, world_size=2, accumulate_grad_batches=2)
    task = SimpleNamespace(device=CPU)
    batch = {"image": torch.zeros(3, 1)}
    StepRandomness(seed, position).on_train_batch_start(trainer, task, batch, 0)
    return draw_normal((3,), task.generator, CPU).tolist(), torch.rand(3).tolist()


def test_a_step_draws_the_same_whatever_was_drawn_before_it() -> None:
    first = _step(0, 5)
    torch.rand(100)
    assert _step(0, 5) == first
    others = [_step(1, 5), _step(0, 6), _step(0, 5, part=1), _step(0, 5, rank=1)]
    assert all(other[i] != first[i] for other in others for i in (0, 1))


class Drawing(Dataset[Any]):
    """Items that are nothing but draws from all global generators, and the epoch it was told."""

    def __init__(self) -> None:
        self.epoch = 0  # a plain attribute: workers that live on have copies of their own

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __getitem__(self, index: int) -> torch.Tensor:
        drawn = [float(torch.rand(())), np.random.rand(), random.random()]
        return torch.tensor([*drawn, index, self.epoch])


class Points(Dataset[float]):
    """The first draw of each item."""

    def __init__(self) -> None:
        self.items = ReadableItems("points", 4, lambda index: index, "error", seed=0)

    def set_epoch(self, epoch: int) -> None:
        self.items.set_epoch(epoch)

    def __getitem__(self, index: int) -> float:
        return self.items.draws(index)()


@pytest.mark.parametrize("workers", [0, 2])
def test_items_that_draw_globally_depend_on_epoch_and_index(workers: int) -> None:
    def items(split: Split) -> list[dict[int, list[float]]]:
        batches = TrainingBatches(Order(6, 6, seed=0), split)
        loader = DataLoader(
            SeededItems(Drawing(), seed=4),
            batch_sampler=batches,
            num_workers=workers,
            persistent_workers=workers > 0,
        )
        epochs = []
        for epoch in (0, 1):
            batches.set_epoch(epoch)
            rows = torch.cat(list(loader))
            assert (rows[:, 4] == epoch).all()
            epochs.append({int(row[3]): row[:3].tolist() for row in rows})
        return epochs

    whole = items(Split())
    parts = items(Split(parts=2))
    assert whole == parts
    assert all(whole[0][i] != whole[1][i] for i in range(6))
    assert len({tuple(v) for v in whole[0].values()}) == 6


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_of_two_epochs_has_the_draws_of_both(workers: int) -> None:
    """Also in workers, of which the others are in the next epoch by then."""
    places = [[(0, 3), (1, 0)], [(1, 3), (1, 1)]] * 8
    items = SeededItems(Points(), seed=0)
    loader = DataLoader(items, batch_sampler=places, num_workers=workers)
    drawn = [float(value) for batch in loader for value in batch]
    expected = [
        np.random.default_rng((0, epoch, index)).random()
        for batch in places
        for epoch, index in batch
    ]
    assert drawn == expected


def test_loading_in_the_training_process_does_not_disturb_its_numbers() -> None:
    seed_global(1)
    expected = [float(torch.rand(())), np.random.rand(), random.random()]
    seed_global(1)
    SeededItems(Drawing(), seed=0)[(0, 3)]
    assert [float(torch.rand(())), np.random.rand(), random.random()] == expected
    with aside():
        seed_global(9)
    assert key("a", 1) != key("a", 2) != key("b", 2)
