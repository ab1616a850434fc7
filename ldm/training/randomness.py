"""Random numbers that depend on the seed and the place in training, and on nothing before it.

Nothing of a generator's state is saved, and nothing that happens beside training, such as pictures
and validation, can disturb it: a resumed run draws what the run would have drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch

from ldm.layers.draws import BatchGenerator
from ldm.training.position import Position
from ldm.training.seeding import key, seed_global


class StepRandomness(pl.Callback):
    """Seeds training batches by (seed, step, part, process), those of validation by their place.

    Draws of a task go through ``task.generator``: each sample of the batch of an optimiser step
    gets the same numbers in whatever processes and parts the batch is worked on. The global
    generators, from which dropout draws, differ between them.

    Args:
        seed: that of the run.
        position: where training stands.
    """

    def __init__(self, seed: int, position: Position) -> None:
        self._seed = seed
        self._position = position

    def setup(self, trainer: Any, task: Any, stage: str) -> None:
        """Tell the data and the task the seed."""
        task.seed = self._seed
        if hasattr(trainer.datamodule, "seed"):
            trainer.datamodule.seed = self._seed

    def on_train_batch_start(self, trainer: Any, task: Any, batch: Any, _index: int) -> None:
        """Seed the batch."""
        step, part = self._position.batches, self._position.part
        own = key(self._seed, "step", step, part, trainer.global_rank)
        seed_global(own)
        torch.manual_seed(own)  # of the devices, too
        size = batch_length(batch)
        parts = trainer.accumulate_grad_batches
        start = (part * trainer.world_size + trainer.global_rank) * size
        task.generator = BatchGenerator(
            task.device,
            key(self._seed, "batch", step),
            key(self._seed, "own", step, part, trainer.global_rank),
            start,
            start + size,
            size * trainer.world_size * parts,
        )

    def on_validation_batch_start(
        self, trainer: Any, task: Any, batch: Any, batch_idx: int, _dataloader_idx: int = 0
    ) -> None:
        """Give the rows of the validation set the numbers they always get."""
        task.generator = validation_generator(trainer, task.device, batch, batch_idx)


def validation_generator(
    trainer: Any, device: torch.device, batch: Any, index: int
) -> BatchGenerator:
    """The generator of a validation batch: the same at every validation, of every run."""
    size = batch_length(batch)
    place = None
    if hasattr(trainer.datamodule, "validation_place"):
        place = trainer.datamodule.validation_place(index)
    if place is None or place.stop - place.start != size:  # a stream, or the user's own module
        own = key("validation", index, trainer.global_rank)
        return BatchGenerator(device, own, own, 0, size, size)
    own = key("validation", place.block, trainer.global_rank)
    whole = key("validation", place.block)
    return BatchGenerator(device, whole, own, place.start, place.stop, place.total)


def batch_length(batch: Any) -> int:
    """Samples of a batch."""
    value = next(iter(batch.values())) if isinstance(batch, Mapping) else batch
    return len(value)
