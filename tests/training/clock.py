"""A clock that tests move, and a task and data that take known time by it."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset


class Clock:
    """Shows the seconds it is told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class SlowItems(Dataset[dict[str, Any]]):
    def __init__(self, clock: Clock, seconds: float, count: int = 32) -> None:
        self._clock, self._seconds, self._count = clock, seconds, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, Any]:
        self._clock.now += self._seconds
        return {"image": torch.full((3, 4, 4), index / self._count)}


class SlowData(pl.LightningDataModule):
    """32 items, four to a batch."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        super().__init__()
        self.num_workers = 0
        self._items = SlowItems(clock, seconds)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self._items, batch_size=4)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self._items, batch_size=32)


class SlowTask(pl.LightningModule):
    """A layer that sums 48 numbers, three seconds to a batch, a hundred to a validation."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.model = nn.Linear(48, 1)
        self._clock = clock

    def training_step(self, batch: dict[str, Any], _index: int) -> Tensor:
        self._clock.now += 3
        loss: Tensor = self.model(batch["image"].flatten(1)).square().mean()
        self.log("loss", loss, prog_bar=True, logger=False)
        return loss

    def validation_step(self, _batch: dict[str, Any], _index: int) -> None:
        self._clock.now += 100

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)
