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
from ldm.training.log import log_values
from ldm.training.lr_schedule import Constant, scheduler
from ldm.training.scale_factor import measure_scale_factor

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
    """

    monitor = "val/loss_simple"

    def __init__(
        self,
        model: LatentDiffusion,
        optimizer: OptimizerFactory,
        lr_schedule: Callable[[int], float] = Constant(),  # noqa: B008 - a frozen value
        gradient_clip: float | None = None,
        preview_steps: int = 50,
        preview_guidance: float = 1.0,
        scale_factor_samples: int = 2048,
    ) -> None:
        super().__init__()
        self.model: Any = model
        self._optimizer = optimizer
        self._lr_schedule = lr_schedule
        self._gradient_clip = gradient_clip
        self._preview_steps = preview_steps
        self._preview_guidance = preview_guidance
        self._scale_factor_samples = scale_factor_samples

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
        """Clip by norm if asked to; Lightning has unscaled the gradients by now."""
        if self._gradient_clip is not None:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            norm = torch.nn.utils.clip_grad_norm_(parameters, self._gradient_clip)
            log_values(self, "train", {"grad_norm": norm}, self.global_step)

    def on_train_start(self) -> None:
        """Measure the scale factor if neither the config nor a checkpoint gave one."""
        if not self.model.has_scale_factor:
            measure_scale_factor(self, self._scale_factor_samples)

    def on_before_batch_transfer(self, batch: dict[str, Any], _dataloader_idx: int) -> Any:
        """Refuse bad values while they are on the CPU, where looking costs nothing."""
        check_batch(self.model.conditioners, batch)
        return batch

    def training_step(self, batch: dict[str, Any], _index: int) -> Tensor:
        """The denoising loss of one batch."""
        loss, logs = self.model(batch)
        logs["lr"] = torch.tensor(self.trainer.optimizers[0].param_groups[0]["lr"])
        log_values(self, "train", logs, self.global_step)
        self.log("loss", logs["loss_simple"], prog_bar=True, logger=False)
        return loss

    def validation_step(self, batch: dict[str, Any], index: int) -> None:
        """The same loss with the same noise and time steps at every validation."""
        generator = torch.Generator(self.device).manual_seed(index)
        _, logs = self.model(batch, generator=generator)
        log_values(self, "val", logs, self.global_step, batch_size=len(batch["image"]))

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
            noise=SeededNoise(range(len(batch["image"]))),
            guidance_scale=self._preview_guidance,
            size=tuple(batch["image"].shape[-2:]),
        )
