"""Train the small feature network that judges quickstart runs without any download."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytorch_lightning as pl
from torch import Tensor, nn
from torch.optim import Optimizer

from ldm.training.optim import Constant, scheduler
from ldm.training.tasks.base import StepMeans, log_values


class FeatureTask(pl.LightningModule):
    """Optimises a network that brings its own supervised loss.

    Args:
        model: network with ``loss(batch)`` and ``accuracy(batch)``, such as ``SceneFeatures``.
        optimizer: makes the optimiser from the network's parameters.
        lr_schedule: multiplier of the learning rate as a function of the step.
    """

    monitor = "val/loss"

    def __init__(
        self,
        model: nn.Module,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        lr_schedule: Callable[[int], float] = Constant(),  # noqa: B008 - a frozen value
    ) -> None:
        super().__init__()
        self.model: Any = model
        self._optimizer = optimizer
        self._lr_schedule = lr_schedule
        self._means = StepMeans()

    def configure_optimizers(self) -> Any:
        """One optimiser over the whole network."""
        optimizer = self._optimizer(self.model.parameters())
        schedule = scheduler(optimizer, self._lr_schedule)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def training_step(self, batch: dict[str, Any], index: int) -> Tensor:
        """The network's own loss."""
        loss: Tensor = self.model.loss(batch)
        means = self._means.add(self, {"loss": loss}, index)
        if means is not None:
            log_values(self, "train", means, self.global_step + 1)
            self.log("loss", means["loss"], prog_bar=True, logger=False)
        return loss

    def validation_step(self, batch: dict[str, Any], _index: int) -> None:
        """Loss and accuracy on held-out images."""
        logs = {"loss": self.model.loss(batch), "accuracy": self.model.accuracy(batch)}
        log_values(self, "val", logs, self.global_step, batch_size=len(batch["image"]))
