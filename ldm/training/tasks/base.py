"""What the four tasks share: optimiser and schedule, numbers of a step, clipping, logs.

A task is a ``LightningModule`` around a model; a subclass of ``Task`` brings its loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ldm.distributed import mean_over_processes
from ldm.training.checks import check_clip
from ldm.training.lightning_internals import loss_scaler
from ldm.training.nan_guard import clip_gradients, gradient_norms
from ldm.training.optim.making import make_optimizer, make_schedule
from ldm.training.optim.muon import mark_tables
from ldm.training.optim.schedules import Constant
from ldm.training.strategy import whole_norm

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]


class Task(pl.LightningModule):
    """Optimises a model with one optimiser, whose learning rate follows a schedule.

    Args:
        model: the network, or whatever holds it.
        optimizer: makes the optimiser from the parameters that learn.
        lr_schedule: multiplier of the learning rate as a function of the step.
        gradient_clip: largest gradient norm; None does not clip.
    """

    monitor = "val/loss"
    """What decides which checkpoint is the best: the lowest is."""
    generator: torch.Generator | None = None
    """Of the draws of the present batch, see :class:`~ldm.training.data.seeded.StepRandomness`."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: OptimizerFactory,
        lr_schedule: Callable[[int], float] = Constant(),  # noqa: B008 - a frozen value
        gradient_clip: float | None = None,
    ) -> None:
        super().__init__()
        self.model: Any = model
        self._optimizer = optimizer
        self._lr_schedule = lr_schedule
        self._gradient_clip = check_clip(gradient_clip)
        self._collected: list[dict[str, Tensor]] = []

    def learning(self) -> Iterable[nn.Parameter]:
        """The parameters that the optimiser gets."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def configure_optimizers(self) -> Any:
        """One optimiser, and its learning-rate schedule."""
        mark_tables(self.model)
        optimizer = make_optimizer(self._optimizer, self.learning())
        schedule = make_schedule(optimizer, self._lr_schedule)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def configure_gradient_clipping(self, optimizer: Optimizer, *_: Any, **__: Any) -> None:
        """Clip by norm if asked to; Lightning has unscaled the gradients by now."""
        if self._gradient_clip is not None:
            parameters, norms = self.unscaled(optimizer)
            norm = self.log_norm(norms)
            clip_gradients(parameters, norm, self._gradient_clip)

    def unscaled(self, optimizer: Optimizer) -> tuple[list[nn.Parameter], Tensor]:
        """The parameters of an optimiser, and the norms (P,) of their gradients in true size."""
        unscale(self.trainer, optimizer)
        parameters = parameters_of(optimizer)
        return parameters, gradient_norms(parameters)

    def log_norm(self, norms: Tensor) -> Tensor:
        """Log, and return, the norm of all gradients from those of each (P,)."""
        norm = whole_norm(self.trainer.strategy, norms)
        log_values(self, "train", {"grad_norm": norm}, self.global_step + 1)
        return norm

    def log_step(self, values: Mapping[str, Tensor], index: int, loss: str = "loss") -> None:
        """Log the means of scalars over the parts of a batch and the processes, with its last part.

        Args:
            values: scalars by name, the same names for all parts.
            index: number of the part in the epoch.
            loss: name of that which progress shows.
        """
        parts = self.trainer.accumulate_grad_batches
        if index % parts == 0:
            self._collected = []  # of a step that was broken off
        self._collected.append({name: value.detach() for name, value in values.items()})
        if (index + 1) % parts and not self.trainer.is_last_batch:
            return
        means = {
            name: torch.stack([part[name] for part in self._collected]).mean() for name in values
        }
        self.log_means(means, self.global_step + 1, loss)

    def log_means(self, means: Mapping[str, Tensor], step: int, loss: str) -> None:
        """Log the means of scalars over the processes, and the learning rate, at a step."""
        means = over_processes(self, means)
        lr = torch.tensor(self.trainer.optimizers[0].param_groups[0]["lr"])
        log_values(self, "train", means | {"lr": lr}, step)
        self.log("loss", means[loss], prog_bar=True, logger=False)


def parameters_of(optimizer: Optimizer) -> list[nn.Parameter]:
    """All parameters of an optimiser."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def over_processes(task: Any, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The mean of each scalar over the processes, in one exchange; the same names in all of them.

    Args:
        task: a Lightning module in a running trainer.
        values: scalars by name.
    """
    if task.trainer.world_size == 1 or not values:
        return dict(values)
    stacked = torch.stack([value.detach().float().to(task.device) for value in values.values()])
    means = mean_over_processes(stacked)  # Lightning's reduce has the hosts wait for each other
    return dict(zip(values, means.unbind(), strict=True))


def log_values(
    task: pl.LightningModule,
    split: str,
    values: Mapping[str, Tensor | float],
    step: int,
    batch_size: int | None = None,
) -> None:
    """Log ``split/name`` for every value at the given optimiser step.

    Lightning's own count of logged steps is not that of the optimiser after a resume; the key
    ``step`` replaces it.

    Args:
        task: who logs.
        split: ``train`` or ``val``; the latter is averaged over batches and processes.
        values: scalars by name.
        step: optimiser steps taken, that of training values included.
        batch_size: weight in the average over batches.
    """
    task.log_dict(
        # Made on the device: Lightning would copy a number there, and a GPU is waited for.
        {f"{split}/{name}": value for name, value in values.items()}
        | {"step": torch.full((), float(step), device=task.device)},
        # A float: Lightning averages whole numbers of several processes to whole numbers.
        batch_size=None if batch_size is None else float(batch_size),  # type: ignore[arg-type]
        sync_dist=split == "val",
    )


def unscale(trainer: Any, optimizer: Optimizer) -> None:
    """Divide gradients by the factor against float16's underflow, where nothing has yet.

    Lightning leaves that to the step of a fused optimiser, which is too late for clipping. The step
    then takes the gradients as they are.

    Args:
        trainer: Lightning's.
        optimizer: whose gradients.
    """
    scaler = loss_scaler(trainer)
    if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
        scaler.unscale_(optimizer)
