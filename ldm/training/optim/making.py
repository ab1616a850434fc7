"""Optimisers and their schedules, as a config asks for them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ldm.config.paths import failure
from ldm.errors import ConfigError, UserError, check_number
from ldm.training.launch import is_main_process

logger = logging.getLogger(__name__)


class StepSchedule(LambdaLR):
    """Multiplies learning rates by ``factor(step)``; a checkpoint brings the step and no more.

    A resumed run thus has the learning rate that its config says, from its first step on, also
    where the config was changed: torch would go on with the schedule and, for one step, the rate
    that were saved.

    Args:
        optimizer: whose rates.
        factor: of the step, from 0.
    """

    def __init__(self, optimizer: Optimizer, factor: Callable[[int], float]) -> None:
        super().__init__(optimizer, factor)

    def state_dict(self) -> dict[str, Any]:
        """How many steps were taken."""
        return {"last_epoch": self.last_epoch, "_step_count": self._step_count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Set the learning rates of an optimiser whose own state was loaded before."""
        self.last_epoch = state_dict["last_epoch"]
        self._step_count = state_dict.get("_step_count", self.last_epoch + 1)
        factors = [factor(self.last_epoch) for factor in self.lr_lambdas]
        rates = [base * factor for base, factor in zip(self.base_lrs, factors, strict=True)]
        for group, base, rate in zip(
            self.optimizer.param_groups, self.base_lrs, rates, strict=True
        ):
            group["initial_lr"] = base
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        self._last_lr = rates


def make_optimizer(
    factory: Callable[..., Optimizer], parameters: Any, where: str = "optimizer"
) -> Optimizer:
    """The optimiser over some parameters.

    Args:
        factory: makes it.
        parameters: what it optimises.
        where: the argument of the task that the factory was.

    Raises:
        ConfigError: the factory refuses its arguments, or makes something else.
    """
    where = f"task.params.{where}"
    name = getattr(getattr(factory, "func", None), "__name__", type(factory).__name__)
    try:
        optimizer: Any = factory(parameters)
    except UserError:
        raise
    except Exception as error:  # whatever its arguments led to
        raise ConfigError(f"{where}: {name}: {failure(error)}") from error
    if not isinstance(optimizer, Optimizer):
        made = type(optimizer).__name__
        raise ConfigError(
            f"{where}: {name} makes a {made}, not an optimiser; it needs partial: true and the "
            "target of an optimiser such as torch.optim.AdamW"
        )
    if isinstance(optimizer, (torch.optim.SparseAdam, torch.optim.LBFGS)):
        raise ConfigError(
            f"{where}: {name} needs sparse gradients or several passes over a batch, which no "
            "model here gives; take another optimiser such as torch.optim.AdamW"
        )
    for group in optimizer.param_groups:
        if not isinstance(group.get("lr", 0.0), Tensor):
            check_number(f"{where}.params.lr", group.get("lr", 0.0), 0)
    result: Optimizer = optimizer
    return result


def optimizers_of(task: Any) -> list[Optimizer]:
    """New optimisers of a task, which gives them in any of the forms that Lightning takes."""

    def found(made: Any) -> Iterator[Optimizer]:
        if isinstance(made, Mapping):
            made = made.get("optimizer")
        if isinstance(made, Optimizer):
            yield made
        elif isinstance(made, (list, tuple)):
            for part in made:
                yield from found(part)

    return list(found(task.configure_optimizers()))


def make_schedule(optimizer: Optimizer, factor: Callable[[int], float]) -> StepSchedule:
    """The schedule of the learning rates of an optimiser.

    Raises:
        ConfigError: the factor of the first step is no number, or cannot be told.
    """
    where = "task.params.lr_schedule"
    try:
        first = float(factor(0))
    except Exception as error:
        raise ConfigError(f"{where}: {type(factor).__name__}: {failure(error)}") from error
    check_number(f"{where}: its factor at step 0", first, 0)
    return StepSchedule(optimizer, factor)


class LRPerSample:
    """Makes optimisers whose learning rate is ``base_lr`` times the batch of an optimiser step.

    The original multiplies its ``base_learning_rate`` by the batch per device, the number of
    devices and that of accumulated batches. Their product is ``data.params.batch_size`` here, so a
    config refers to it: ``batch_size: ${data.params.batch_size}``. The value is logged.

    Args:
        optimizer: makes the optimiser; called with the parameters and ``lr``.
        base_lr: learning rate per sample.
        batch_size: samples per optimiser step over all devices and accumulated batches.

    Raises:
        ConfigError: one of the numbers is not positive.
    """

    def __init__(
        self, optimizer: Callable[..., Optimizer], base_lr: float, batch_size: int
    ) -> None:
        if base_lr <= 0 or batch_size < 1 or not math.isfinite(base_lr * batch_size):
            raise ConfigError(
                f"base_lr {base_lr} and batch_size {batch_size} must be positive: the learning "
                "rate is their product"
            )
        self.lr = base_lr * batch_size
        self._optimizer = optimizer
        self._said = False
        self._text = f"learning rate {self.lr:.4g} = base_lr {base_lr:g} x batch {batch_size}"

    def __call__(self, parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]]) -> Optimizer:
        """The optimiser over some parameters."""
        if is_main_process() and not self._said:  # it is made once to see whether that works
            logger.info(self._text)
        self._said = True
        return self._optimizer(parameters, lr=self.lr)
