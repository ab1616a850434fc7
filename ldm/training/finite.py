"""A guard that keeps numbers which are not finite out of the weights."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ldm.errors import ConfigError, TrainingError
from ldm.training.processes import any_process

MAX_SKIPPED = 10
"""Batches in a row that may be left out before it is plain that training itself has broken."""

logger = logging.getLogger(__name__)


class FiniteGuard:
    """Leaves out, or stops at, batches with a NaN or infinite term of the loss or gradient.

    All processes come to the same decision. The weights are never touched by such a batch, so the
    checkpoints on disk, and one written while stopping, stay good.

    Args:
        on_nonfinite: ``skip`` warns, leaves the batch out and stops after ``MAX_SKIPPED`` in a row;
            ``stop`` stops at the first.

    Attributes:
        in_a_row: batches left out since the last step that was taken.
        exchange: tells which flags (N,) are set in any process; the one exchange of a step, in
            which other questions may go along.
    """

    def __init__(self, on_nonfinite: str = "skip") -> None:
        if on_nonfinite not in ("skip", "stop"):
            raise ConfigError(f"on_nonfinite must be 'skip' or 'stop', got {on_nonfinite!r}")
        self._stop = on_nonfinite == "stop"
        self.in_a_row = 0
        self.exchange: Callable[[Tensor], list[bool]] = any_process

    def passes(
        self,
        step: int,
        values: Mapping[str, Tensor],
        detail: Callable[[], str] = lambda: "",
    ) -> bool:
        """Whether all values are finite in all processes.

        Args:
            step: the optimiser step that is being prepared, counted from 1.
            values: tensors by the name under which a message mentions them; the same names in all
                processes.
            detail: gives what else a message says of a batch that is not; called by all processes.

        Raises:
            TrainingError: they are not, and training is to stop.
        """
        bad = torch.stack([~value.detach().isfinite().all() for value in values.values()])
        flags = self.exchange(bad)  # the one moment at which the host waits for the device
        if not any(flags):
            return True
        names = ", ".join(name for name, flag in zip(values, flags, strict=True) if flag)
        names = f"{names} not finite (NaN or infinite){detail()}"
        self.in_a_row += 1
        if self._stop or self.in_a_row > MAX_SKIPPED:
            again = "" if self.in_a_row == 1 else f", for the {self.in_a_row}th batch in a row"
            raise TrainingError(
                f"step {step}: {names}{again}; nothing of it has reached the weights, and the run "
                "can be resumed. Look for damaged images or lower the learning rate; under "
                "16-mixed use bf16-mixed or 32-true"
            )
        logger.warning("step %d: %s: batch left out", step, names)
        return False

    def stepped(self) -> None:
        """A step was taken: the row of batches left out, if any, is over."""
        self.in_a_row = 0
