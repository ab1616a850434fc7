r"""Look at the data of a config, as training would get them.

Examples:
  python scripts/show_data.py configs/folder/text.yaml data_root=photos
  python scripts/show_data.py configs/layout/coco-ldm-8.yaml data_root=coco --split validation
  python scripts/show_data.py configs/text/laion-ldm-8.yaml configs/data/laion.yaml \
    data_root=shards --workers 2 --num 32 --out laion.png
  python scripts/show_data.py configs/semantic/landscapes-256.yaml data_root=mine --epoch 3

Writes a picture of the first samples with their conditions: captions and class names as words,
layouts with their boxes, label maps in colours, masks, smaller images, neighbours. Prints type,
shape and range of every entry, how many samples were left out and why, and how many images a second
were read. Neither a model nor a run is needed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from _cli import check_out_file, run, say
from _item_cells import Item, item_cells
from _sheet import Row, save_rows
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from ldm.config import instantiate, load_config
from ldm.errors import UserError

ACROSS = 8
"""Pictures in a row of the sheet."""
TEXT = 60


def main() -> None:
    """Read the arguments, look at samples, measure, write the sheet."""
    arguments = _parser().parse_intermixed_args()
    if arguments.num < 1 or arguments.workers < 0 or arguments.seconds < 0:
        raise UserError("--num must be at least 1, --workers and --seconds not negative")
    check_out_file("--out", arguments.out)
    files = [item for item in arguments.config if "=" not in item]
    overrides = [item for item in arguments.config if "=" in item]
    if not files:
        raise UserError("give a config file; --help shows examples")
    config = load_config(*files, overrides=overrides, complete=False)
    dataset = _dataset(config, arguments.split)
    if hasattr(dataset, "set_epoch"):
        dataset.set_epoch(arguments.epoch)
    size = f"{len(dataset)} items" if hasattr(dataset, "__len__") else "no known length"
    say(f"{arguments.split} data: {type(dataset).__name__}, {size}")
    items, speed = _look(dataset, arguments)
    _describe(items)
    skipped = _skipped(dataset)
    counts = ", ".join(f"{count} {reason}" for reason, count in skipped.items())
    say(f"left out or replaced so far: {counts or 'none'}")
    if speed is not None:
        say(f"{speed:.1f} images/s with {arguments.workers} workers, once they run")
    if any("image" not in item for item in items):
        raise UserError("these items hold no image to draw, as those of a latent cache")
    _write(items, dataset, arguments.out)
    say(f"written to {arguments.out}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "config", nargs="*", help="YAML files, merged left to right, then key=value overrides"
    )
    parser.add_argument("--split", choices=["train", "validation"], default="train")
    parser.add_argument("--num", type=int, default=16, help="samples to show (default: 16)")
    parser.add_argument("--out", type=Path, default=Path("data.png"), help="default: data.png")
    parser.add_argument("--workers", type=int, default=0, help="loader processes (default: 0)")
    parser.add_argument("--epoch", type=int, default=0, help="whose crops and order (default: 0)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of samples")
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="how long to measure the speed (default: 3)"
    )
    return parser


def _dataset(config: DictConfig, split: str) -> Any:
    """One of the two data sets of a config, without building the other."""
    if "data" not in config:
        raise UserError("this config has no data: name the file of a data set after it")
    text = OmegaConf.to_yaml(config.data)
    for key in map(str, config):
        if OmegaConf.is_missing(config, key) and f"${{{key}}}" in text:
            raise UserError(f"the data set needs {key}: give {key}=VALUE after the files")
    parts = config.data.get("params") or {}
    if split in parts:
        return instantiate(parts[split], f"data.params.{split}")
    dataset = getattr(instantiate(config.data, "data"), split, None)
    if dataset is None:
        raise UserError(f"data: it has no {split} set")
    return dataset


def _look(dataset: Any, arguments: argparse.Namespace) -> tuple[list[Item], float | None]:
    """The samples to show, and images per second after them."""
    batches = _batches(dataset, arguments)
    items: list[Item] = []
    while len(items) < arguments.num and (batch := next(batches, None)) is not None:
        items += batch
    if not items:
        raise UserError("the data set is empty")
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


def _skipped(dataset: Any) -> dict[str, int]:
    """What a data set and those inside it have left out."""
    found: dict[str, int] = {}
    inner = getattr(dataset, "images", None)
    if inner is not None and inner is not dataset:
        found.update(_skipped(inner))
    if hasattr(dataset, "skips"):
        for reason, count in dataset.skips.counts().items():
            found[reason] = found.get(reason, 0) + count
    return found


def _write(items: Sequence[Item], dataset: Any, out: Path) -> None:
    samples = item_cells(items, dataset)
    each = max(1, ACROSS // max(len(cells) for cells in samples))
    rows = [
        Row("", [cell for cells in samples[i : i + each] for cell in cells])
        for i in range(0, len(samples), each)
    ]
    save_rows(rows, out)


if __name__ == "__main__":
    run(main)
