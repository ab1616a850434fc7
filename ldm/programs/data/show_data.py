"""Look at the data of a config, as training would get them."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence, Sized
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from ldm.cli.app import say
from ldm.config import instantiate
from ldm.config.paths import failure
from ldm.data.items import left_out
from ldm.errors import ConfigError, UserError
from ldm.experiment import check_data_set, data_set
from ldm.visualization.conditions import Item, item_cells
from ldm.visualization.figure import Row, save_rows

ACROSS = 8
"""Pictures in a row of the sheet."""
TEXT = 60


def run(arguments: argparse.Namespace) -> None:
    """Look at samples, measure, write the sheet."""
    dataset = _dataset(arguments.config, arguments.split)
    if hasattr(dataset, "set_epoch"):
        dataset.set_epoch(arguments.epoch)
    size = f"{len(dataset)} items" if hasattr(dataset, "__len__") else "no known length"
    say(f"{arguments.split} data: {type(dataset).__name__}, {size}")
    try:
        items, speed = _look(dataset, arguments)
    except UserError:
        raise
    except Exception as error:  # of parts that do not fit each other, or a user's own
        raise ConfigError(
            f"data.params.{arguments.split}: its items cannot be made: {failure(error)}"
        ) from error
    _describe(items)
    skipped = left_out(dataset)
    counts = ", ".join(f"{count} {reason}" for reason, count in skipped.items())
    say(f"left out or replaced so far: {counts or 'none'}")
    if speed is not None:
        say(f"{speed:.1f} images/s with {arguments.workers} workers, once they run")
    if any("image" not in item for item in items):
        raise UserError("these items hold no image to draw, as those of a latent cache")
    if any(getattr(item["image"], "ndim", 0) != 3 for item in items):
        raise UserError("these items hold no image to draw: 'image' is no (C, H, W)")
    _write(items, dataset, arguments.out)
    say(f"written to {arguments.out}")


def _dataset(config: DictConfig, split: str) -> Any:
    """One of the two data sets of a config, without building the other."""
    node, path = data_set(config, split)
    dataset = instantiate(node, path)
    if path == "data":
        dataset = getattr(dataset, split, None)
        if dataset is None:
            raise UserError(f"data: it has no {split} set")
    check_data_set(dataset, path)
    return dataset


def _look(dataset: Any, arguments: argparse.Namespace) -> tuple[list[Item], float | None]:
    """The samples to show, and images per second after them."""
    if isinstance(dataset, Sized) and not len(dataset):
        raise UserError("the data set is empty")
    batches = _batches(dataset, arguments)
    items: list[Item] = []
    while len(items) < arguments.num and (batch := next(batches, None)) is not None:
        items += batch
    if not items:
        raise UserError("the data set is empty")
    if not all(isinstance(item, dict) for item in items):
        raise UserError(f"data: items of {type(dataset).__name__} are no values by name")
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < arguments.seconds:
        batch = next(batches, None)
        if batch is None:
            batches = _batches(dataset, arguments)
            continue
        count += len(batch)
    elapsed = time.perf_counter() - start
    return items[: arguments.num], count / elapsed if count else None


def _batches(dataset: Any, arguments: argparse.Namespace) -> Iterator[list[Item]]:
    """Lists of items as the loader of a training gives them, not collated."""
    stream = isinstance(dataset, IterableDataset)
    loader = DataLoader(
        dataset,
        batch_size=min(arguments.num, 16),
        shuffle=False if stream else arguments.split == "train",
        generator=torch.Generator().manual_seed(arguments.seed),
        num_workers=arguments.workers,
        collate_fn=_unchanged,
    )
    return iter(loader)


def _unchanged(items: list[Item]) -> list[Item]:
    return items


def _describe(items: Sequence[Item]) -> None:
    for key in dict.fromkeys(key for item in items for key in item):
        values = [item[key] for item in items if key in item]
        first = values[0]
        note = f", in {len(values)} of {len(items)}" if len(values) < len(items) else ""
        if isinstance(first, Tensor):
            shapes = sorted({tuple(value.shape) for value in values})
            numbers = torch.cat([value.reshape(-1).double() for value in values])
            span = f"{numbers.min():.4g} to {numbers.max():.4g}" if len(numbers) else "empty"
            kind = str(first.dtype).removeprefix("torch.")
            say(f"  {key:<14} {kind:<8} {' '.join(map(str, shapes))}  {span}{note}")
        elif isinstance(first, str):
            say(f"  {key:<14} text     {first[:TEXT]!r}{note}")
        else:
            say(f"  {key:<14} {type(first).__name__:<8} {min(values)} to {max(values)}{note}")


def _write(items: Sequence[Item], dataset: Any, out: Path) -> None:
    samples = item_cells(items, dataset)
    each = max(1, ACROSS // max(len(cells) for cells in samples))
    rows = [
        Row("", [cell for cells in samples[i : i + each] for cell in cells])
        for i in range(0, len(samples), each)
    ]
    save_rows(rows, out)
