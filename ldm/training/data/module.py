"""The Lightning data module: two data sets in, shuffled batches of tensors out."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sized
from itertools import islice
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ldm.data.items import left_out
from ldm.errors import ConfigError, DataError
from ldm.training.checks import size_of_part
from ldm.training.data.order import (
    Order,
    Split,
    TrainingBatches,
    ValidationBatches,
    ValidationPlace,
)
from ldm.training.data.seeded import SeededItems, SeededStream
from ldm.training.signals import leave_signals_to_main_process

_log = logging.getLogger(__name__)


class DataModule(pl.LightningDataModule):
    """Training and validation loaders over any data sets.

    Map-style sets are shuffled by (seed, epoch) alone: which samples make up the batch of an
    optimiser step does not depend on the number of processes, workers and accumulated parts, and a
    resumed run goes on with the batch after its last.

    Args:
        train: data set whose items are dicts with at least ``image`` (3, H, W) in [-1, 1]. An
            iterable one shuffles by itself, and gives each process its share and only that. With
            ``resume_at(epoch, batches, batch_size)`` it can begin within an epoch by itself;
            otherwise a resumed run reads what comes before and leaves it out.
        validation: the same for validation; its first batches also feed the image grids.
        batch_size: samples per optimiser step over *all* devices and accumulated batches, so that
            one and eight GPUs train alike; must be divisible by devices x accumulation.
        num_workers: loader processes per device; 0 loads in the training process.

    Attributes:
        seed: of the order of the data, and of data sets that draw from the global generators.
    """

    def __init__(
        self,
        train: Dataset[Any],
        validation: Dataset[Any],
        batch_size: int,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        if type(batch_size) is not int or batch_size < 1:
            raise ConfigError(f"batch_size must be a whole number, at least 1, got {batch_size!r}")
        if type(num_workers) is not int or num_workers < 0:
            raise ConfigError(f"num_workers: expected 0, 1, 2, ..., got {num_workers!r}")
        self.train = train
        self.validation = validation
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = 0
        self._start = (0, 0)
        self._told: list[Any] = [train]  # of epochs; loaders are made more than once

    def start_at(self, epoch: int, samples: int) -> tuple[int, int]:
        """Begin the next iteration within an epoch.

        Args:
            epoch: which.
            samples: how many of its samples, over all processes, have been seen.

        Returns:
            The epoch and the batches of it that are left out: whole ones, with the present batch
            size. An epoch that is over is the next one's beginning.
        """
        taken = samples // self.batch_size
        count = self.batches_in(epoch)
        if count is not None and taken >= count:
            epoch, taken = epoch + 1, 0
        self._start = epoch, taken
        return self._start

    def batches_in(self, epoch: int) -> int | None:
        """Optimiser steps of an epoch; None where the data come in a stream."""
        return None if self._is_stream() else self._order().batches_in(epoch)

    def rows_of(self, epoch: int, index: int) -> list[int] | None:
        """Rows of the training set in a batch of this process; None where they come in a stream.

        Args:
            epoch: which.
            index: number of the batch, or accumulated part of one, in the epoch.
        """
        if self._is_stream():
            return None
        split = self._split()
        step, part = divmod(index, split.parts)
        batch = self._order().rows(epoch).reshape(-1, self.batch_size)[step]
        rows: list[int] = batch[split.rows(self.batch_size, part)].tolist()
        return rows

    def set_epoch(self, epoch: int) -> None:
        """Choose order, crops and flips of the next iteration over the training set."""
        for part in self._told:
            if hasattr(part, "set_epoch"):
                part.set_epoch(epoch)

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled batches, all of the same size."""
        size = self._local_batch_size()
        epoch, taken = self._start
        if self.trainer is not None and self.trainer.current_epoch != epoch:
            epoch, taken = self.trainer.current_epoch, 0
        if self._is_stream():
            loader = self._stream_loader(size, epoch, taken)
        else:
            batches = TrainingBatches(self._order(), self._split(), epoch, taken)
            self._told.append(batches)
            loader = self._loader(SeededItems(self.train, self.seed), batch_sampler=batches)
        self.set_epoch(epoch)  # workers may begin before the epoch
        return loader

    def teardown(self, stage: str) -> None:
        """Say, at the end of training, what the data sets of this process left out."""
        for name in ("train", "validation") if stage == "fit" else ():
            for reason, count in left_out(getattr(self, name)).items():
                _log.info("%s data: %d left out: %s", name, count, reason)

    def val_dataloader(self) -> DataLoader[Any]:
        """All of the validation set in fixed order, shared out among the processes."""
        if isinstance(self.validation, IterableDataset):
            stream = SeededStream(self.validation, self.seed, self._split().rank)
            return self._loader(stream, batch_size=self._local_batch_size())
        items = SeededItems(self.validation, self.seed)
        return self._loader(items, batch_sampler=self._validation_batches())

    def validation_place(self, index: int) -> ValidationPlace | None:
        """Where a validation batch of this process lies; None where the data come in a stream."""
        if isinstance(self.validation, IterableDataset):
            return None
        return self._validation_batches().place(index)

    def _is_stream(self) -> bool:
        return isinstance(self.train, IterableDataset)

    def _order(self) -> Order:
        count = len(self.train) if isinstance(self.train, Sized) else 0
        if count < self.batch_size:
            raise DataError(
                f"the training set has {count} items, fewer than batch_size {self.batch_size}: "
                "add data or lower data.params.batch_size"
            )
        return Order(count, self.batch_size, self.seed)

    def _split(self) -> Split:
        if self.trainer is None:
            return Split()
        trainer = self.trainer
        return Split(trainer.global_rank, trainer.world_size, trainer.accumulate_grad_batches)

    def _validation_batches(self) -> ValidationBatches:
        split, count = self._split(), len(self.validation)  # type: ignore[arg-type]
        self._local_batch_size()
        if count < split.world:
            raise DataError(
                f"the validation set has {count} items, fewer than the {split.world} processes: "
                "add data or train with fewer devices"
            )
        return ValidationBatches(count, self.batch_size, split)

    def _local_batch_size(self) -> int:
        split = self._split()
        return size_of_part(self.batch_size, split.world * split.parts)

    def _stream_loader(self, size: int, epoch: int, taken: int) -> DataLoader[Any]:
        split, items = self._split(), self.train
        if hasattr(items, "whole_batches"):
            items.whole_batches(size, split.parts)
        stream = SeededStream(items, self.seed, split.rank)
        self._told.append(stream)
        loader = self._loader(stream, _StreamLoader, batch_size=size, drop_last=True)
        done = taken * split.parts
        if hasattr(items, "resume_at"):
            items.resume_at(epoch, done, size)
        else:
            loader.left_out = done
        if isinstance(items, Sized) and not len(loader):
            raise DataError(
                f"the training set has {len(items)} items for each process, fewer than a batch of "
                f"{size * split.parts}: add data or lower data.params.batch_size"
            )
        return loader

    def _loader(
        self, dataset: Dataset[Any], kind: type[DataLoader[Any]] = DataLoader, **options: Any
    ) -> Any:
        return kind(
            dataset,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=leave_signals_to_main_process,
            **options,
        )


class _StreamLoader(DataLoader[Any]):
    """A loader whose first iteration leaves out its first batches."""

    left_out = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        first, self.left_out = self.left_out, 0
        batches = super().__iter__()
        return islice(batches, first, None) if first else batches
