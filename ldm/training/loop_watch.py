"""What Lightning's training loop is doing: waiting for data, or working on a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pytorch_lightning.profilers import Profiler

_FETCH = "[_TrainingEpochLoop].train_dataloader_next"
_BATCH = "run_training_batch"


class LoopWatch(Profiler):
    """A profiler of Lightning that tells of two actions and leaves all to another profiler.

    No hook of a callback lies right before the loop asks its loader for a batch; a profiler is told
    of that moment, and of the end of an action also where it fails.

    Args:
        inner: the profiler that the trainer would have without this one.
        fetch: called with True when the loop begins to wait for a batch, with False when it has it.
        batch: the same around forward pass, backward pass and optimiser step.
    """

    def __init__(
        self, inner: Profiler, fetch: Callable[[bool], None], batch: Callable[[bool], None]
    ) -> None:
        super().__init__()
        self._inner = inner
        self._told = {_FETCH: fetch, _BATCH: batch}

    def start(self, action_name: str) -> None:
        """An action begins."""
        self._inner.start(action_name)
        if action_name in self._told:
            self._told[action_name](True)

    def stop(self, action_name: str) -> None:
        """An action has ended."""
        if action_name in self._told:
            self._told[action_name](False)
        self._inner.stop(action_name)

    def summary(self) -> str:
        """Summary of the other profiler."""
        return self._inner.summary()

    def describe(self) -> None:
        """Report of the other profiler."""
        self._inner.describe()

    def setup(self, *args: Any, **kwargs: Any) -> None:
        """Set the other profiler up."""
        self._inner.setup(*args, **kwargs)

    def teardown(self, stage: str | None) -> None:
        """End the other profiler."""
        self._inner.teardown(stage)
