"""Stage 2: train the denoiser, and its conditioners, on latents of a frozen autoencoder.

Before the first step the scale factor of the latents is measured on training data (paper, appendix
G), if nothing else gives it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ldm.checkpoint import left_out, optional_parts
from ldm.conditioners.pretrained import PretrainedModule
from ldm.conditioners.spatial import LatentImage, ResizedMask
from ldm.diffusion.conditioning import check_all_given, check_batch
from ldm.diffusion.latent_diffusion import LatentDiffusion, latent_moments, scale_from_moments
from ldm.errors import DataError, check_count, check_number
from ldm.layers.rng import BatchGenerator
from ldm.samplers.ddim import DDIM
from ldm.samplers.noise import SeededNoise
from ldm.training.data.order import Split
from ldm.training.data.seeding import key
from ldm.training.lightning_internals import loss_scaler
from ldm.training.nan_guard import StepGuard, clip_gradients
from ldm.training.optim.schedules import Constant
from ldm.training.tasks.base import OptimizerFactory, Task, log_values

logger = logging.getLogger(__name__)

_ONE_BYTE = 2.5 / 255
"""Of images in [-1, 1], and a little more."""


def measure_scale_factor(task: Any, samples: int) -> float:
    """Set ``task.model.scale_factor`` to 1 / std of unscaled latents of the training set.

    The original takes the first batch of the first process; here every process contributes its
    share of the first batches of the first epoch and all end with the same number, however many
    they are. Checkpoints then carry it.

    Args:
        task: a Lightning module with a ``LatentDiffusion`` as ``model``, in a running trainer.
        samples: images to look at, over all processes: as many whole batches as hold them.

    Returns:
        The factor.
    """
    moments = latent_moments(_latents(task, samples))
    # float32 sums of 1e5 values would do; float64 is not to be had on every accelerator.
    gathered = task.all_gather(moments.to(task.device, _widest(task.device)))
    factor = scale_from_moments(gathered.cpu().double().reshape(-1, 3).sum(0))
    task.model.set_scale_factor(factor)
    if task.global_rank == 0:
        logger.info("latent scale factor %.5f, measured on the training set", factor)
    return factor


def _latents(task: Any, samples: int) -> Iterator[Tensor]:
    trainer, seen = task.trainer, 0
    split = Split(trainer.global_rank, trainer.world_size, trainer.accumulate_grad_batches)
    for index, batch in enumerate(trainer.datamodule.train_dataloader()):
        number, part = divmod(index, split.parts)
        if part == 0 and seen >= samples:
            return
        tensors = {k: v.to(task.device) for k, v in batch.items() if isinstance(v, Tensor)}
        tensors = trainer.precision_plugin.convert_input(tensors)  # 64-true
        size = len(next(iter(tensors.values())))
        seen += size * split.world
        total = size * split.world * split.parts
        rows = split.rows(total, part)
        own = key("scale factor", number, part, split.rank)
        generator = BatchGenerator(
            task.device, key("scale factor", number), own, rows.start, rows.stop, total
        )
        yield task.model.encode_batch_unscaled(tensors, generator)


def _widest(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


def _check_hole(part: LatentImage, image: Tensor, mask: Any) -> None:
    if not isinstance(mask, Tensor) or mask.shape[-2:] != image.shape[-2:]:
        return
    hole = image[(mask == 1).expand_as(image)]
    if len(hole) and (hole - part.hidden).abs().max() > _ONE_BYTE:
        low, high = hole.aminmax()
        raise DataError(
            f"{part.key!r} has values from {low:g} to {high:g} where the mask is 1, the model "
            f"expects {part.hidden:g}: give the data set and LatentImage the same 'hidden'"
        )


class LatentDiffusionTask(Task):
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
            infinite; see :class:`~ldm.training.nan_guard.StepGuard`. A step that is left out
            counts, but changes nothing.
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
        on_nonfinite: str = "skip",
    ) -> None:
        super().__init__(model, optimizer, lr_schedule, gradient_clip)
        check_count("preview_steps", preview_steps)
        check_number("preview_guidance", preview_guidance)
        check_all_given(model.conditioners, model.denoiser)
        check_count("scale_factor_samples", scale_factor_samples)
        self._preview_steps = preview_steps
        self._preview_guidance = preview_guidance
        self._scale_factor_samples = scale_factor_samples
        self.guard = StepGuard(on_nonfinite)
        self.left_out = False

    def check_item(self, item: dict[str, Any]) -> None:
        """Refuse images whose holes are not what the model takes for one, before a run begins.

        Raises:
            DataError: it names both values.
        """
        parts = self.model.conditioners
        masks = [item.get(part.key) for part in parts if isinstance(part, ResizedMask)]
        for part in parts:
            image = item.get(part.key)
            if isinstance(part, LatentImage) and isinstance(image, Tensor):
                for mask in masks:
                    _check_hole(part, image, mask)

    def state_dict(self, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """What checkpoints hold: all but the parts that have a file of their own."""
        state: dict[str, Any] = super().state_dict(**kwargs)
        outside = tuple(kwargs.get("prefix", "") + part for part in optional_parts(self))
        for name in [name for name in state if name.startswith(outside)]:
            del state[name]  # in place: it may be the caller's
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

    def configure_gradient_clipping(self, optimizer: Optimizer, *_: Any, **__: Any) -> None:
        """Leave the step out if it is not finite, else clip; gradients are unscaled by now."""
        parameters, norms = self.unscaled(optimizer)
        scaled = loss_scaler(self.trainer) is not None
        self.left_out = not self.guard.admits(
            self.global_step + 1, None if scaled else norms, self.model.named_parameters()
        )
        norm = self.log_norm(norms)
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
            loss: Tensor
            loss, logs = self.model(batch, generator=self.generator)
            watched.terms = dict(logs)
        self.log_step(logs, index, "loss_simple")
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
