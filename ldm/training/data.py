"""The Lightning data module: two data sets in, shuffled batches of tensors out."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ldm.errors import ConfigError, DataError


class DataModule(pl.LightningDataModule):
    """Training and validation loaders over any map-style data sets.

    Args:
        train: data set whose items are dicts with at least ``image`` (3, H, W) in [-1, 1]. An
            iterable one shuffles by itself, and gives each process its share and only that.
        validation: the same for validation; its first batches also feed the image grids.
        batch_size: samples per optimiser step over *all* devices and accumulated batches, so that
            one and eight GPUs train alike; must be divisible by devices x accumulation.
        num_workers: loader processes per device; 0 loads in the training process.
    """

    def __init__(
        self,
        train: Dataset[Any],
        validation: Dataset[Any],
        batch_size: int,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
        self.train = train
        self.validation = validation
        self.batch_size = batch_size
        self.num_workers = num_workers

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled batches; an incomplete last batch is dropped so that all steps weigh alike."""
        size = self._local_batch_size()
        count = len(self.train) if isinstance(self.train, Sized) else None
        if count is not None and count < self.batch_size:
            raise DataError(
                f"the training set has {count} items, fewer than batch_size {self.batch_size}: "
                "add data or lower data.params.batch_size"
            )
        if self.trainer is not None and hasattr(self.train, "set_epoch"):
            self.train.set_epoch(self.trainer.current_epoch)  # workers may begin before the epoch
        return self._loader(self.train, size, shuffle=True, drop_last=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """All of the validation set in fixed order."""
        return self._loader(self.validation, self._local_batch_size(), shuffle=False)

    def _local_batch_size(self) -> int:
        parts = 1
        if self.trainer is not None:
            parts = self.trainer.world_size * self.trainer.accumulate_grad_batches
        if self.batch_size % parts:
            raise ConfigError(
                f"data.params.batch_size {self.batch_size} is the batch of one optimiser step over "
                f"all devices; it must be divisible by devices x accumulation = {parts}"
            )
        return self.batch_size // parts

    def _loader(
        self, dataset: Dataset[Any], batch_size: int, shuffle: bool, drop_last: bool = False
    ) -> DataLoader[Any]:
        return DataLoader(
            dataset,
            batch_size=batch_size,
            shuffle=shuffle and not isinstance(dataset, IterableDataset),
            drop_last=drop_last,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )
