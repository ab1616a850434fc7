"""Stage 1: train an autoencoder against reconstruction, regularisation and a discriminator."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from ldm.evaluation.reconstruction import psnr
from ldm.training.log import log_values
from ldm.training.lr_schedule import Constant, scheduler

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]


class AutoencoderTask(pl.LightningModule):
    """Alternates one step of the autoencoder and one of the discriminator on every batch.

    ``trainer.max_steps`` and ``disc_start`` both count batches: the discriminator's optimiser is
    stepped past Lightning's counter, which would otherwise count two steps per batch.

    Args:
        model: autoencoder; called with images (B, C, H, W) in [-1, 1].
        objective: ``KLObjective`` or ``VQObjective``.
        optimizer: makes the optimiser of the autoencoder from its parameters.
        discriminator_optimizer: the same for the discriminator.
        lr_schedule: multiplier of both learning rates as a function of the step.
        gradient_clip: largest gradient norm of the autoencoder; None does not clip.
    """

    monitor = "val/rec_loss"

    def __init__(
        self,
        model: nn.Module,
        objective: nn.Module,
        optimizer: OptimizerFactory,
        discriminator_optimizer: OptimizerFactory,
        lr_schedule: Callable[[int], float] = Constant(),  # noqa: B008 - a frozen value
        gradient_clip: float | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model: Any = model
        self.objective: Any = objective
        self._optimizer = optimizer
        self._discriminator_optimizer = discriminator_optimizer
        self._lr_schedule = lr_schedule
        self._gradient_clip = gradient_clip

    def configure_optimizers(self) -> Any:
        """Two optimisers, each with the same learning-rate schedule."""
        generator = self._optimizer(self.model.parameters())
        discriminator = self._discriminator_optimizer(self.objective.discriminator.parameters())
        optimizers = [generator, discriminator]
        return optimizers, [scheduler(optimizer, self._lr_schedule) for optimizer in optimizers]

    def training_step(self, batch: dict[str, Any], _index: int) -> None:
        """One step of the autoencoder, then one of the discriminator."""
        images = batch["image"]
        generator, discriminator = cast("list[Any]", self.optimizers())
        output = self.model(images)

        step = self.global_step
        loss, logs = self.objective.generator(images, output, self.model.last_layer, step)
        generator.zero_grad()
        self.manual_backward(loss)
        generator.step()

        if step >= self.objective.disc_start:
            disc_loss, disc_logs = self.objective.discriminator_loss(images, output.image, step)
            discriminator.zero_grad()
            self.manual_backward(disc_loss)
            self.trainer.strategy.optimizer_step(
                discriminator.optimizer, closure=lambda: None, model=self
            )
            logs |= disc_logs
        for schedule in cast("list[Any]", self.lr_schedulers()):
            schedule.step()
        logs["lr"] = torch.tensor(generator.param_groups[0]["lr"])
        log_values(self, "train", logs, step)
        self.log("loss", logs["rec_loss"], prog_bar=True, logger=False)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip the autoencoder's gradients, which are unscaled by now, by norm if asked to."""
        generator = cast("list[Any]", self.optimizers())[0]
        if self._gradient_clip is not None and optimizer is generator.optimizer:
            norm = clip_grad_norm_(self.model.parameters(), self._gradient_clip)
            log_values(self, "train", {"grad_norm": norm}, self.global_step)

    def validation_step(self, batch: dict[str, Any], index: int) -> None:
        """Reconstruction from a posterior sample, with the same noise at every validation."""
        images = batch["image"]
        output = self.model(images, generator=torch.Generator(self.device).manual_seed(index))
        _, logs = self.objective.generator(images, output, self.model.last_layer, self.global_step)
        logs["psnr"] = psnr(images, output.image.clamp(-1, 1)).mean()
        log_values(self, "val", logs, self.global_step, batch_size=len(images))

    @torch.no_grad()
    def preview(self, batch: dict[str, Any], count: int = 8) -> Tensor:
        """Images above their reconstructions, (2 * count, C, H, W), ``count`` per row."""
        images = batch["image"][:count].to(self.device)
        return torch.cat([images, self.model.decode(self.model.encode(images).mode())])
