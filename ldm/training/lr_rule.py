"""The original's rule for learning rates: so much per sample of the batch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from ldm.errors import ConfigError
from ldm.training.processes import is_main_process

logger = logging.getLogger(__name__)


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
        if base_lr <= 0 or batch_size < 1:
            raise ConfigError(
                f"base_lr {base_lr} and batch_size {batch_size} must be positive: the learning "
                "rate is their product"
            )
        self.lr = base_lr * batch_size
        self._optimizer = optimizer
        self._text = f"learning rate {self.lr:.4g} = base_lr {base_lr:g} x batch {batch_size}"

    def __call__(self, parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]]) -> Optimizer:
        """The optimiser over some parameters."""
        if is_main_process():
            logger.info(self._text)
        return self._optimizer(parameters, lr=self.lr)
