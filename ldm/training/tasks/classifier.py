"""Train the classifier of noisy latents that guides a diffusion model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ldm.diffusion.classifier import NoisyLatentClassifier
from ldm.errors import ConfigError
from ldm.training.checks import check_clip
from ldm.training.nan_guard import clip_gradients, gradient_norms
from ldm.training.optim import Constant, scheduler
from ldm.training.strategy import whole_norm
from ldm.training.tasks.base import StepMeans, log_values, unscale


class ClassifierTask(pl.LightningModule):
    """Optimises a ``NoisyLatentClassifier``.

    Args:
        model: the classifier; its autoencoder stays frozen.
        optimizer: makes the optimiser from the parameters of its network.
        lr_schedule: multiplier of the learning rate as a function of the step.
        gradient_clip: largest gradient norm; None does not clip.
    """

    monitor = "val/loss"
    generator: torch.Generator | None = None
    """Of the draws of the present batch, see :class:`~ldm.training.data.seeded.StepRandomness`."""

    def __init__(
        self,
        model: NoisyLatentClassifier,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        lr_schedule: Callable[[int], float] = Constant(),  # noqa: B008 - a frozen value
        gradient_clip: float | None = None,
    ) -> None:
        super().__init__()
        self.model: Any = model
        self._optimizer = optimizer
        self._lr_schedule = lr_schedule
        self._gradient_clip = check_clip(gradient_clip)
        self._means = StepMeans()

    def configure_optimizers(self) -> Any:
        """One optimiser over the network."""
        optimizer = self._optimizer(self.model.network.parameters())
        schedule = scheduler(optimizer, self._lr_schedule)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def configure_gradient_clipping(self, optimizer: Optimizer, *_: Any, **__: Any) -> None:
        """Clip by norm if asked to; Lightning has unscaled the gradients by now."""
        if self._gradient_clip is not None:
            unscale(self.trainer, optimizer)
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            norm = whole_norm(self.trainer.strategy, gradient_norms(parameters))
            clip_gradients(parameters, norm, self._gradient_clip)
            log_values(self, "train", {"grad_norm": norm}, self.global_step + 1)

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
        loss, logs = self.model(batch, generator=self.generator)
        means = self._means.add(self, logs, index)
        if means is not None:
            means["lr"] = torch.tensor(self.trainer.optimizers[0].param_groups[0]["lr"])
            log_values(self, "train", means, self.global_step + 1)
            self.log("loss", means["loss"], prog_bar=True, logger=False)
        return loss

    def validation_step(self, batch: dict[str, Any], _index: int) -> None:
        """Loss and accuracies with the same noise and time steps at every validation."""
        logs = self.model.evaluate(batch, self.generator)
        log_values(self, "val", logs, self.global_step, batch_size=len(batch["image"]))
