"""Train the classifier of noisy latents that guides a diffusion model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from ldm.errors import ConfigError
from ldm.training.tasks.base import Task, log_values


class ClassifierTask(Task):
    """Optimises a ``NoisyLatentClassifier``, whose autoencoder stays frozen; see ``Task``."""

    def learning(self) -> Iterable[nn.Parameter]:
        """Those of the classifying network."""
        parameters: Iterable[nn.Parameter] = self.model.network.parameters()
        return parameters

    def on_train_start(self) -> None:
        """Refuse the scale factor of a diffusion model that was never trained.

        Raises:
            ConfigError: it is unknown.
        """
        if self.model.scale_factor.isnan():
            raise ConfigError(
                "the latent scale factor is unknown: train the diffusion model first, and take "
                "the classifier's from it (classifier_for), or give scale_factor a number"
            )

    def training_step(self, batch: dict[str, Any], index: int) -> Tensor:
        """Cross-entropy of one batch."""
        loss: Tensor
        loss, logs = self.model(batch, generator=self.generator)
        self.log_step(logs, index)
        return loss

    def validation_step(self, batch: dict[str, Any], _index: int) -> None:
        """Loss and accuracies with the same noise and time steps at every validation."""
        logs = self.model.evaluate(batch, self.generator)
        log_values(self, "val", logs, self.global_step, batch_size=len(batch["image"]))
