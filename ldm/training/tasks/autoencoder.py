"""Stage 1: train an autoencoder against reconstruction, regularisation and a discriminator."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from ldm.autoencoders.quantizer import VectorQuantizer
from ldm.distributed import rank_and_count, sum_over_processes
from ldm.errors import ConfigError, DataError
from ldm.evaluation.metrics.reconstruction import psnr
from ldm.layers.codebook import code_counts, codes_used, perplexity
from ldm.layers.rng import BatchGenerator
from ldm.losses.adversarial import check_patches
from ldm.training.lightning_internals import loss_scaler
from ldm.training.nan_guard import FiniteGuard
from ldm.training.optim.making import make_optimizer, make_schedule
from ldm.training.optim.muon import mark_tables
from ldm.training.optim.schedules import Constant
from ldm.training.tasks.base import OptimizerFactory, Task, log_values, parameters_of, unscale


class CodeUsage:
    """Counts chosen codes until asked; a single batch says little about a large codebook.

    Args:
        num_codes: size of the codebook.
    """

    def __init__(self, num_codes: int) -> None:
        self.num_codes = num_codes
        self._counts: Tensor | None = None

    def add(self, indices: Tensor) -> None:
        """Count the codes of a batch; indices have any shape."""
        counts = code_counts(indices, self.num_codes)
        before = self._counts
        self._counts = counts if before is None else before.to(counts.device) + counts

    def state(self) -> Tensor | None:
        """What all processes have counted since the last summary, for a checkpoint."""
        return None if self._counts is None else sum_over_processes(self._counts.clone())

    def load(self, counts: Tensor | None) -> None:
        """Go on counting from a state, in one of the processes."""
        if counts is not None:
            self._counts = counts if rank_and_count()[0] == 0 else torch.zeros_like(counts)

    def to(self, device: torch.device) -> None:
        """Count there: processes of GPUs can only add what lies on them."""
        self._counts = None if self._counts is None else self._counts.to(device)

    def summary(self) -> dict[str, Tensor]:
        """What was seen in all processes since the last call.

        Returns:
            ``epoch_perplexity`` and ``codebook_usage``, the share of codes used at least once;
            nothing if no batch was seen.
        """
        counts, self._counts = self._counts, None
        if counts is None:
            return {}
        counts = sum_over_processes(counts)
        share = codes_used(counts).float() / self.num_codes
        return {"epoch_perplexity": perplexity(counts), "codebook_usage": share}


def mean_logs(logs: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Means over the parts of a batch, for scalars that all parts have."""
    return {key: torch.stack([entry[key].float() for entry in logs]).mean() for key in logs[0]}


class AutoencoderTask(Task):
    """Alternates one step of the autoencoder and one of the discriminator on every batch.

    ``trainer.max_steps`` and ``disc_start`` both count batches: the discriminator's optimiser is
    stepped past Lightning's counter, which would otherwise count two steps per batch. With
    ``trainer.accumulate_grad_batches`` = n a batch is worked on in n parts, one after the other, to
    save memory; it is still one batch, one step.

    Args:
        model: autoencoder; called with images (B, C, H, W) in [-1, 1].
        objective: ``KLObjective`` or ``VQObjective``.
        optimizer: makes the optimiser of the autoencoder from its parameters.
        discriminator_optimizer: the same for the discriminator.
        lr_schedule: multiplier of both learning rates as a function of the step.
        gradient_clip: largest gradient norm of the autoencoder; None does not clip.
        on_nonfinite: ``skip`` or ``stop``: what a batch does whose loss or gradient is NaN or
            infinite; see :class:`~ldm.training.nan_guard.FiniteGuard`.
        published_discriminator: train the discriminator as the original code does. It sees what the
            autoencoder makes of the images *after* its step, in a second pass with other noise, and
            its optimiser has made ``disc_start`` steps without a gradient before the first one
            with: Adam(0.5, 0.9) then begins with steps of 1.58 lr. False: it sees the
            reconstructions of the step itself, which saves the second pass, and begins afresh.
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
        on_nonfinite: str = "skip",
        published_discriminator: bool = False,
    ) -> None:
        super().__init__(model, optimizer, lr_schedule, gradient_clip)
        self.automatic_optimization = False
        self.micro_batches = 1
        self.objective: Any = objective
        if hasattr(objective, "logvar"):
            objective.logvar.requires_grad_(False)  # in no optimiser, as published
        self._discriminator_optimizer = discriminator_optimizer
        self.guard = FiniteGuard(on_nonfinite)
        self.published_discriminator = published_discriminator
        quantizer = self._quantizer
        self._usage = {
            split: CodeUsage(quantizer.num_codes)
            for split in ("train", "val")
            if quantizer is not None
        }

    @property
    def _quantizer(self) -> VectorQuantizer | None:
        quantizer = getattr(self.model, "quantize", None)
        return quantizer if isinstance(quantizer, VectorQuantizer) else None

    def check_item(self, item: dict[str, Any]) -> None:
        """Refuse images that the model cannot take, before a run begins.

        Raises:
            DataError: it names the size or the channels, and what is needed.
            ConfigError: the discriminator has too many layers for them.
        """
        channels, *sides = item["image"].shape
        taken = self.model.image_channels
        if channels != taken:
            raise DataError(
                f"the images have {channels} channels, the model takes {taken}: "
                "set its in_channels (image_channels of configs/autoencoder) or image_mode"
            )
        factor = self.model.downsampling_factor
        if any(side % factor for side in sides):
            size = "x".join(map(str, sides))
            raise DataError(
                f"the images have {size} pixels, but the sides must be multiples of the model's "
                f"downsampling factor f = {factor}: change image_size"
            )
        check_patches(self.objective.discriminator, sides)

    def configure_optimizers(self) -> Any:
        """Two optimisers, each with the same learning-rate schedule."""
        judges = self.objective.discriminator.parameters()
        mark_tables(self)
        optimizers = [
            make_optimizer(self._optimizer, self.learning()),
            make_optimizer(self._discriminator_optimizer, judges, "discriminator_optimizer"),
        ]
        return optimizers, [make_schedule(optimizer, self._lr_schedule) for optimizer in optimizers]

    def on_fit_start(self) -> None:
        """Tell the objective in how many parts batches come."""
        gradients = self.objective.gradients  # of a checkpoint, which is read to the CPU
        gradients.extend([gradients.popleft().to(self.device) for _ in range(len(gradients))])
        self.objective.work_in_parts(self.micro_batches)
        for usage in self._usage.values():
            usage.to(self.device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store what the balance of the losses remembers of earlier parts, and codes counted."""
        checkpoint["gradients"] = list(self.objective.gradients)
        checkpoint["left_out_in_a_row"] = self.guard.in_a_row
        checkpoint["code_usage"] = {split: usage.state() for split, usage in self._usage.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continue with the balance and the counts as they were."""
        self.guard.in_a_row = checkpoint.get("left_out_in_a_row", 0)
        gradients = checkpoint.get("gradients", [])
        self.objective.gradients = deque(gradients, maxlen=max(1, len(gradients)))
        for split, counts in checkpoint.get("code_usage", {}).items():
            self._usage[split].load(counts)

    def training_step(self, batch: dict[str, Any], _index: int) -> None:
        """One step of the autoencoder, then one of the discriminator."""
        step = self.global_step
        parts = self._parts(batch["image"])
        generators = [self._generator_of(i, len(images)) for i, images in enumerate(parts)]
        trained = self._autoencoder_step(parts, generators, step)
        if trained is None:
            return
        reconstructions, logs = trained
        complete = True
        if self.objective.adversarial(step):
            if self.published_discriminator:
                reconstructions = self._reconstructed(parts, generators)
                seen = {"second reconstruction": torch.cat(reconstructions)}
                complete = self.guard.passes(step + 1, seen)
            if complete:
                complete, disc_logs = self._discriminator_step(parts, reconstructions, step)
                logs |= disc_logs
        elif self.published_discriminator:
            self._step_without_gradient()
        self.log_means(logs, step + 1, "rec_loss")
        for schedule in cast("list[Any]", self.lr_schedulers()):
            schedule.step()
        if complete:
            self.guard.stepped()

    def _autoencoder_step(
        self, parts: list[Tensor], generators: list[torch.Generator | None], step: int
    ) -> tuple[list[Tensor], dict[str, Tensor]] | None:
        """The reconstructions and what to log; None if the batch had to be left out."""
        optimizer = cast("list[Any]", self.optimizers())[0]
        optimizer.zero_grad()
        if self._quantizer is not None:
            self._quantizer.forget()  # a batch that was left out
        reconstructions, logs = [], []
        with self._frozen_discriminator():
            for i, images in enumerate(parts):
                output = self.model(images, generator=generators[i])
                reconstruction = output.image.detach()
                seen = {"images": images, "reconstruction": reconstruction}
                # before it reaches any running statistics
                if not self.guard.passes(step + 1, seen):
                    return None
                loss, terms = self.objective.generator(images, output, self.model.last_layer, step)
                with self._synchronised(i == len(parts) - 1):
                    self.manual_backward(loss / len(parts))
                reconstructions.append(reconstruction)
                logs.append(terms)
                if output.indices is not None:
                    self._usage["train"].add(output.indices)
        means = mean_logs(logs)
        if not self._scaled:
            means["grad_norm"] = self._clip(optimizer.optimizer, self._gradient_clip)
        if not self.guard.passes(step + 1, means):
            self.objective.gradients.clear()
            return None
        optimizer.step()
        if self._quantizer is not None:
            self._quantizer.update_codebook()
        return reconstructions, means

    def _discriminator_step(
        self, parts: list[Tensor], reconstructions: list[Tensor], step: int
    ) -> tuple[bool, dict[str, Tensor]]:
        """Whether the step was taken, and what to log."""
        optimizer = cast("list[Any]", self.optimizers())[1].optimizer
        optimizer.zero_grad()
        logs = []
        for i, (images, copies) in enumerate(zip(parts, reconstructions, strict=True)):
            loss, terms = self.objective.discriminator_loss(images, copies, step)
            with self._synchronised(i == len(parts) - 1):
                self.manual_backward(loss / len(parts))
            logs.append(terms)
        means = mean_logs(logs)
        if not self._scaled:
            means["disc_grad_norm"] = self._clip(optimizer, None)
        fit = self.guard.passes(step + 1, means)
        if fit:
            self.trainer.strategy.optimizer_step(optimizer, closure=lambda: None, model=self)
        return fit, means

    @torch.no_grad()
    def _reconstructed(
        self, parts: list[Tensor], generators: list[torch.Generator | None]
    ) -> list[Tensor]:
        """What the autoencoder makes of the images now, with the numbers that are drawn next."""
        pairs = zip(parts, generators, strict=True)
        return [self.model(images, generator=generator).image for images, generator in pairs]

    def _step_without_gradient(self) -> None:
        """Let the discriminator's optimiser count a step in which nothing is learned."""
        optimizer = cast("list[Any]", self.optimizers())[1].optimizer
        for parameter in parameters_of(optimizer):
            parameter.grad = torch.zeros_like(parameter)
        self.trainer.strategy.optimizer_step(optimizer, closure=lambda: None, model=self)

    def _parts(self, images: Tensor) -> list[Tensor]:
        if len(images) % self.micro_batches:
            raise ConfigError(
                f"trainer.accumulate_grad_batches: {self.micro_batches} parts of a batch need a "
                f"batch size per device that they divide; it is {len(images)}"
            )
        return list(images.chunk(self.micro_batches))

    def _generator_of(self, part: int, size: int) -> torch.Generator | None:
        """The source of the draws of a part of the present batch."""
        if not isinstance(self.generator, BatchGenerator):
            return self.generator
        return self.generator.narrow(part * size, size)

    @contextmanager
    def _frozen_discriminator(self) -> Iterator[None]:
        """Let gradients pass through the discriminator, but not into its weights."""
        self.objective.discriminator.requires_grad_(False)
        try:
            yield
        finally:
            self.objective.discriminator.requires_grad_(True)

    def _synchronised(self, last: bool) -> AbstractContextManager[None]:
        """Average gradients over the processes only once per step, with those of the last part."""
        no_sync = getattr(self.trainer.strategy.model, "no_sync", nullcontext)
        return nullcontext() if last else no_sync()

    @property
    def _scaled(self) -> bool:
        """Whether gradients are scaled against float16's underflow until the optimiser's step."""
        return loss_scaler(self.trainer) is not None

    def _clip(self, optimizer: Optimizer, limit: float | None) -> Tensor:
        """Clip by norm if there is a limit; the norm before that."""
        return clip_grad_norm_(parameters_of(optimizer), math.inf if limit is None else limit)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip the autoencoder's gradients where they have only now been unscaled."""
        generator = cast("list[Any]", self.optimizers())[0].optimizer
        if self._scaled and self._gradient_clip is not None and optimizer is generator:
            unscale(self.trainer, optimizer)
            norm = self._clip(optimizer, self._gradient_clip)
            log_values(self, "train", {"grad_norm": norm}, self.global_step + 1)

    def validation_step(self, batch: dict[str, Any], _index: int) -> None:
        """Reconstruction from a posterior sample, with the same noise at every validation."""
        images = batch["image"]
        output = self.model(images, generator=self.generator)
        _, logs = self.objective.generator(images, output, self.model.last_layer, self.global_step)
        for name in ("d_weight", "disc_factor"):  # a ratio of gradients: not there in validation
            logs.pop(name, None)
        latents = output.posterior.mode().float()
        logs |= {"latent_mean": latents.mean(), "latent_std": latents.std()}
        logs["psnr"] = psnr(images, output.image.clamp(-1, 1)).mean()
        log_values(self, "val", logs, self.global_step, batch_size=len(images))
        if output.indices is not None:
            self._usage["val"].add(output.indices)

    def on_train_epoch_start(self) -> None:
        """Log the use of the codebook in an epoch at whose very end the run was killed."""
        summary = self._usage["train"].summary() if self._usage else {}
        values = {f"train/{name}": float(value) for name, value in summary.items()}
        for logger in self.trainer.loggers if values else ():
            logger.log_metrics(values, step=self.global_step)

    def on_train_epoch_end(self) -> None:
        """Log how evenly the codebook was used in this epoch."""
        self._log_usage("train")

    def on_validation_epoch_end(self) -> None:
        """Log how evenly the codebook was used on the validation set."""
        self._log_usage("val")

    def _log_usage(self, split: str) -> None:
        summary = self._usage[split].summary() if split in self._usage else {}
        if summary:
            log_values(self, split, summary, self.global_step)

    @torch.no_grad()
    def preview(self, batch: dict[str, Any], count: int = 8) -> Tensor:
        """Images above their reconstructions, (2 * count, C, H, W), ``count`` per row."""
        images = batch["image"][:count].to(self.device)
        return torch.cat([images, self.model.decode(self.model.encode(images).mode())])
