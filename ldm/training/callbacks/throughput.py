"""How fast a training is, and what its time is spent on: waiting for data, work, standing still.

``Meter`` counts images and seconds, ``LoopWatch`` tells it what the loop of Lightning is doing, and
``Throughput`` logs speed, operations per second and memory.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.profilers import Profiler
from pytorch_lightning.utilities import rank_zero_only

from ldm.training.callbacks.flops import FlopCount, peak_flops
from ldm.training.callbacks.informing import OnlyInforms
from ldm.training.data.seeded import batch_length
from ldm.training.lightning_internals import BATCH, FETCH


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
        self._told = {FETCH: fetch, BATCH: batch}

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


def peak_memory(device: torch.device) -> float | None:
    """Bytes: of tensors on a CUDA device, otherwise of the process; None where it is not known.

    Loader processes are not part of it.
    """
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


class Speed(NamedTuple):
    """A reading of a ``Meter``."""

    images_per_second: float
    """Of training alone: without the time that training stood still."""
    data_wait: float
    """Share of training's time that it waited for its loader, 0 to 1."""
    overhead: float
    """Share of all time that training stood still: validation, pictures, checkpoints."""
    seconds: float
    """Of training since the last reading."""


class Meter:
    """Counts images and seconds; looks at a clock only, never at a device.

    Args:
        clock: seconds from any beginning.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._standing: float | None = None
        self._waiting: float | None = None
        self.restart()

    def restart(self) -> None:
        """Begin anew; what was counted since the last reading is forgotten."""
        self._begin = self._clock()
        self._images, self._waited, self._stood = 0, 0.0, 0.0

    def add(self, images: int) -> None:
        """So many images were trained on."""
        self._images += images

    def wait(self, begins: bool) -> None:
        """Training begins to wait for a batch, and no longer stands still; or it has it."""
        now = self._clock()
        if begins:
            self._count_standing(now)
            self._standing, self._waiting = None, now
        elif self._waiting is not None:
            self._waited += now - self._waiting
            self._waiting = None

    def stand_still(self) -> None:
        """Something else than training begins; it ends where training asks for a batch."""
        if self._standing is None:
            self._standing = self._clock()

    def read(self) -> Speed | None:
        """The speed since the last reading, or ``restart``; None if nothing was trained on."""
        now = self._clock()
        self._count_standing(now)
        seconds = now - self._begin - self._stood
        if not self._images or seconds <= 0:
            return None
        speed = Speed(
            images_per_second=self._images / seconds,
            data_wait=self._waited / seconds,
            overhead=self._stood / (now - self._begin),
            seconds=seconds,
        )
        self.restart()
        return speed

    def _count_standing(self, now: float) -> None:
        if self._standing is not None:
            self._stood += now - max(self._standing, self._begin)
            self._standing = now


MAX_DATA_WAIT = 0.3
"""Share of its time that training may wait for data before the user is told what helps."""

_WARM_UP = 2  # batches

logger = logging.getLogger(__name__)


class Throughput(pl.Callback):
    """Logs ``perf/...`` and warns once of a loader that is too slow.

    - ``images_per_second``: of all processes, while training: validation, pictures and checkpoints
      are left out, and told of as ``overhead``, their share of the time.
    - ``data_wait``: share of training's time that the first process waited for its loader.
    - ``tflops``: 1e12 floating-point operations per second and device. Those of an image are
      counted in the first batch, again where the discriminator of a first stage begins.
    - ``mfu``: of the operations that the device can do at best, the share; where that is known.
    - ``memory_gb``: most memory so far, 1e9 bytes: tensors on a CUDA device, else the process.

    Left out are the first two batches of a process, which warm up, and the batch in which
    operations are counted with the one that follows it: torch.compile steps aside in the one, and
    may have to work in the other. The count is part of checkpoints: a batch must not be computed in
    another way because a run was resumed there.

    Nothing here waits for the device, except before what is left out; so the queue of a GPU shifts
    a moment's work from one reading to the next, and no more.

    Args:
        every: optimiser steps between readings.
        peak_tflops: what the device can do at best, 1e12 operations per second; None looks it up.
        meter: counts images and seconds.
        window: seconds of training over which the waiting for data is judged.
    """

    def __init__(
        self,
        every: int,
        peak_tflops: float | None = None,
        meter: Meter | None = None,
        window: float = 30.0,
    ) -> None:
        self.latest: dict[str, float] = {}
        self._every = every
        self._peak = None if peak_tflops is None else peak_tflops * 1e12
        self._meter = Meter() if meter is None else meter
        self._device = torch.device("cpu")
        self._window = window
        self._judged, self._waited, self._warned = 0.0, 0.0, False
        self._phase: bool | None = None
        self._counting: FlopCount | None = None
        self._counted = ExitStack()
        self._flops_per_image = 0.0
        self._last_step = 0
        self._slow = _WARM_UP
        self._informs = OnlyInforms("speed cannot be told")

    def state_dict(self) -> dict[str, Any]:
        """The count of operations, for checkpoints."""
        return {"flops_per_image": self._flops_per_image, "phase": self._phase}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the count of a checkpoint."""
        self._flops_per_image, self._phase = state_dict["flops_per_image"], state_dict["phase"]

    def setup(self, trainer: Any, _task: Any, stage: str) -> None:
        """Be told when the loop waits for data."""
        if stage == "fit":
            trainer.profiler = LoopWatch(trainer.profiler, self._meter.wait, self._work)

    def on_train_start(self, trainer: Any, _task: Any) -> None:
        """Look up the device."""
        self._device = trainer.strategy.root_device
        with self._informs:
            if self._peak is None:
                self._peak = peak_flops(self._device, str(trainer.precision))
        self._last_step = trainer.global_step
        self._meter.restart()

    def on_train_batch_start(self, trainer: Any, task: Any, *_args: Any) -> None:
        """Count operations where they are not those of the last batch."""
        objective = getattr(task, "objective", None)
        adversarial = getattr(objective, "adversarial", None)
        phase = False if adversarial is None else bool(adversarial(trainer.global_step))
        if phase != self._phase:
            self._phase, self._counting = phase, FlopCount()

    def _work(self, begins: bool) -> None:
        if begins and self._counting is not None:
            self._counted.enter_context(self._counting)
        elif not begins:
            self._counted.close()

    def on_train_batch_end(
        self, trainer: Any, task: Any, _outputs: Any, batch: Any, *_args: Any
    ) -> None:
        """Count its images, and take a reading if it is time."""
        images = batch_length(batch)
        if self._counting is not None:
            self._flops_per_image = self._counting.total / images
            self._counting, self._slow = None, _WARM_UP
        if self._slow:
            self._slow -= 1
            self._meter.restart()
        else:
            self._meter.add(images)
        step = trainer.global_step
        if step != self._last_step and step % self._every == 0:
            speed = self._meter.read()
            if speed is not None:
                with self._informs:
                    self._report(trainer, speed)
                    self._judge(trainer, speed)
        self._last_step = step

    def stand_still(self) -> None:
        """Leave out what comes now, up to the next batch."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # what is in its queue is still training
        self._meter.stand_still()

    def on_validation_start(self, *_args: Any) -> None:
        """Leave it out."""
        self.stand_still()

    def on_save_checkpoint(self, *_args: Any) -> None:
        """Leave it out."""
        self.stand_still()

    def _report(self, trainer: Any, speed: Speed) -> None:
        flops = self._flops_per_image * speed.images_per_second
        memory = peak_memory(self._device)
        values = {
            "images_per_second": speed.images_per_second * trainer.world_size,
            "data_wait": speed.data_wait,
            "overhead": speed.overhead,
            "tflops": flops / 1e12,
        }
        if self._peak is not None:
            values["mfu"] = flops / self._peak
        if memory is not None:
            values["memory_gb"] = memory / 1e9
        self.latest = values
        for log in trainer.loggers:  # with the step at which the losses of this batch are logged
            named = {f"perf/{name}": value for name, value in values.items()}
            log.log_metrics(named, step=trainer.global_step)

    @rank_zero_only
    def _judge(self, trainer: Any, speed: Speed) -> None:
        self._judged += speed.seconds
        self._waited += speed.seconds * speed.data_wait
        if self._judged < self._window:
            return
        share = self._waited / self._judged
        self._judged = self._waited = 0.0
        if share > MAX_DATA_WAIT and not self._warned:
            self._warned = True
            workers = getattr(trainer.datamodule, "num_workers", 0)
            logger.warning(
                "training waits for data %.0f %% of the time: raise data.params.num_workers (now "
                "%d; this machine has %d cores), or make images cheaper to read: smaller files, a "
                "faster disk",
                100 * share,
                workers,
                os.cpu_count() or 1,
            )

    def summary(self) -> str:
        """The latest reading in a few words; empty before the first."""
        if not self.latest:
            return ""
        latest = self.latest
        speed = latest["images_per_second"]
        words = [f"{speed:,.0f} images/s" if speed >= 10 else f"{speed:.2f} images/s"]
        words.append(f"data wait {latest['data_wait']:.0%}")
        utilisation = f" ({latest['mfu']:.0%} of peak)" if "mfu" in latest else ""
        tera = latest["tflops"]
        rate = f"{tera:.3g} TFLOP/s" if tera >= 0.1 else f"{1000 * tera:.3g} GFLOP/s"
        words.append(rate + utilisation)
        if "memory_gb" in latest:
            words.append(f"{latest['memory_gb']:.1f} GB")
        return ", ".join(words)
