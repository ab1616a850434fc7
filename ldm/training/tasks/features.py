"""Train the small feature network that judges quickstart runs without any download."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from ldm.training.tasks.base import Task, log_values


class FeatureTask(Task):
    """Optimises a network that brings its own supervised loss, with all its parameters.

    The network has ``loss(batch)`` and ``accuracy(batch)``, such as ``SceneFeatures``; for the
    arguments see ``Task``.
    """

    def learning(self) -> Iterable[nn.Parameter]:
        """All of the network."""
        parameters: Iterable[nn.Parameter] = self.model.parameters()
        return parameters

    def training_step(self, batch: dict[str, Any], index: int) -> Tensor:
        """The network's own loss."""
        loss: Tensor = self.model.loss(batch)
        self.log_step({"loss": loss}, index)
        return loss

    def validation_step(self, batch: dict[str, Any], _index: int) -> None:
        """Loss and accuracy on held-out images."""
        logs = {"loss": self.model.loss(batch), "accuracy": self.model.accuracy(batch)}
        log_values(self, "val", logs, self.global_step, batch_size=len(batch["image"]))
