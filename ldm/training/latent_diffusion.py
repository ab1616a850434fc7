"""Stage 2: train the denoiser, and its conditioners, on latents of a frozen autoencoder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ldm.checkpoint import left_out, optional_parts
from ldm.conditioners.pretrained import PretrainedModule
from ldm.diffusion.conditioning import check_batch
from ldm.diffusion.latent import LatentDiffusion
from ldm.samplers.ddim import DDIM
from ldm.samplers.noise import SeededNoise
from ldm.training.checks import check_clip
from ldm.training.log import log_values
from ldm.training.lr_schedule import Constant, scheduler
from ldm.training.scale_factor import measure_scale_factor
from ldm.training.sharding import whole_norm
from ldm.training.step_guard import StepGuard, clip_gradients, gradient_norms
from ldm.training.step_means import StepMeans
from ldm.training.unscale import unscale

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]


class LatentDiffusionTask(pl.LightningModule):
    """Optimises a ``LatentDiffusion`` model.

    Args:
        model: the model; its autoencoder stays frozen. If its scale factor is still unknown, it is
            measured on training data before the first step.
        optimizer: makes the optimiser from the trainable parameters.
        lr_schedule: multiplier of the learning rate as a function of the step.
        gradient_clip: largest gradient norm; None does not clip.
        preview_steps: DDIM steps of the sample grids drawn during training.
        preview_guidance: classifier-free guidance scale of those grids.
        scale_factor_samples: images over which an unknown scale factor is measured.
        on_nonfinite: ``skip`` or ``stop``: what a step does whose loss or gradient is NaN or
            infinite; see :class:`~ldm.training.step_guard.StepGuard`. A step that is left out
            counts, but changes nothing.
    """

    monitor = "val/loss_simple"
    generator: torch.Generator | None = None
    """Of the draws of the present batch, see :class:`~ldm.training.randomness.StepRandomness`."""

    def __init__(
        self,
        model: LatentDiffusion,
        optimizer: OptimizerFactory,
        lr_schedule: Callable[[int], float] = Constant(),  # noqa: B008 - a frozen value
        gradient_clip: float | None = None,
        preview_steps: int = 50,
        preview_guidance: float = 1.0,
        scale_factor_samples: int = 2048,
        on_nonfinite: str = "skip",
    ) -> None:
        super().__init__()
        self.model: Any = model
        self._optimizer = optimizer
        self._lr_schedule = lr_schedule
        self._gradient_clip = check_clip(gradient_clip)
        self._preview_steps = preview_steps
        self._preview_guidance = preview_guidance
        self._scale_factor_samples = scale_factor_samples
        self.guard = StepGuard(on_nonfinite)
        self.left_out = False
        self._means = StepMeans()

    def state_dict(self, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """What checkpoints hold: all but the parts that have a file of their own."""
        state: dict[str, Any] = super().state_dict(**kwargs)
        outside = tuple(kwargs.get("prefix", "") + part for part in optional_parts(self))
        for key in [key for key in state if key.startswith(outside)]:
            del state[key]  # in place: it may be the caller's
        return state

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load strictly, except that parts with a file of their own may be absent."""
        missing = left_out(self, state_dict, super().state_dict())
        if missing:
            state_dict = {**state_dict, **missing}
        return super().load_state_dict(state_dict, strict, assign)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store how many batches in a row were left out: resuming again and again is no way on."""
        checkpoint["left_out_in_a_row"] = self.guard.in_a_row

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with that number."""
        self.guard.in_a_row = checkpoint.get("left_out_in_a_row", 0)

    def on_fit_start(self) -> None:
        """Read what no checkpoint has brought, rather than in the midst of the first step."""
        for module in self.model.modules():
            if isinstance(module, PretrainedModule):
                module.fill()

    def configure_optimizers(self) -> Any:
        """One optimiser over everything that is not frozen."""
        trainable = [p for p in self.model.parameters() if p.requires_grad]
        optimizer = self._optimizer(trainable)
        schedule = scheduler(optimizer, self._lr_schedule)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def configure_gradient_clipping(self, optimizer: Optimizer, *_: Any, **__: Any) -> None:
        """Leave the step out if it is not finite, else clip; gradients are unscaled by now."""
        unscale(self.trainer, optimizer)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norms = gradient_norms(parameters)
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        self.left_out = not self.guard.admits(
            self.global_step + 1, None if scaled else norms, self.model.named_parameters()
        )
        norm = whole_norm(self.trainer.strategy, norms)
        log_values(self, "train", {"grad_norm": norm}, self.global_step + 1)
        if self.left_out:
            optimizer.zero_grad()  # an optimiser passes over parameters without gradients
        elif self._gradient_clip is not None:
            clip_gradients(parameters, norm, self._gradient_clip)

    def on_train_start(self) -> None:
        """Measure the scale factor if neither the config nor a checkpoint gave one."""
        if not self.model.has_scale_factor:
            measure_scale_factor(self, self._scale_factor_samples)

    def on_before_batch_transfer(self, batch: dict[str, Any], _dataloader_idx: int) -> Any:
        """Refuse bad values while they are on the CPU, where looking costs nothing."""
        check_batch(self.model.conditioners, batch)
        return batch

    def training_step(self, batch: dict[str, Any], index: int) -> Tensor:
        """The denoising loss of one batch."""
        with self.guard.watching(self.model, batch, self._rows(index)) as watched:
            loss, logs = self.model(batch, generator=self.generator)
            watched.terms = dict(logs)
        means = self._means.add(self, logs, index)
        if means is not None:
            means["lr"] = torch.tensor(self.trainer.optimizers[0].param_groups[0]["lr"])
            log_values(self, "train", means, self.global_step + 1)
            self.log("loss", means["loss_simple"], prog_bar=True, logger=False)
        return loss

    def _rows(self, index: int) -> Callable[[], list[int] | None]:
        """Tells, if asked, which rows of the training set the batch holds."""
        data: Any = getattr(self.trainer, "datamodule", None)
        epoch = self.trainer.current_epoch
        return lambda: data.rows_of(epoch, index) if hasattr(data, "rows_of") else None

    def validation_step(self, batch: dict[str, Any], _index: int) -> None:
        """The same loss with the same noise and time steps at every validation."""
        _, logs = self.model(batch, generator=self.generator)
        size = len(next(iter(batch.values())))
        log_values(self, "val", logs, self.global_step, batch_size=size)

    @torch.no_grad()
    def preview(self, batch: dict[str, Any], count: int = 16) -> Tensor:
        """Samples under the conditions of ``batch``, (count, C, H, W), the same noise each time."""
        batch = {
            key: value[:count].to(self.device) if isinstance(value, Tensor) else value[:count]
            for key, value in batch.items()
        }
        return self.model.sample(
            batch,
            sampler=DDIM(steps=self._preview_steps),
            noise=SeededNoise(range(len(next(iter(batch.values()))))),
            guidance_scale=self._preview_guidance,
            size=self.model.image_size(batch),
        )
