"""Several processes wait for each other once in a step, to agree about it and whether to end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from ldm.training.tasks.autoencoder import AutoencoderTask
from ldm.training.tasks.features import FeatureTask
from ldm.training.tasks.latent_diffusion import LatentDiffusionTask
from tests.training import tiny
from tests.training.launched import launch

HERE = "tests.training.test_exchanges"
EXCHANGES = ("all_reduce", "broadcast", "barrier", "all_gather", "broadcast_object_list", "reduce")


class Recorded:
    """A task that records which exchanges are made in each step; DDP's own are made in C++."""

    trainer: Any

    def on_train_start(self) -> None:
        super().on_train_start()  # type: ignore[misc]
        self._steps: list[list[str]] = []
        for name in EXCHANGES:
            setattr(dist, name, self._recording(getattr(dist, name)))

    def _recording(self, exchange: Callable[..., Any]) -> Callable[..., Any]:
        def recorded(*args: Any, **options: Any) -> Any:
            if self._steps:
                self._steps[-1].append(exchange.__name__)
            return exchange(*args, **options)

        return recorded

    def on_train_batch_start(self, *_: Any) -> None:
        if self.trainer.global_step == len(self._steps):
            self._steps.append([])

    def on_train_end(self) -> None:
        if self.trainer.is_global_zero:
            file = Path(self.trainer.default_root_dir) / "exchanges.json"
            file.write_text(json.dumps(self._steps))


class Stage1(Recorded, AutoencoderTask):
    """Stage 1."""


class Stage2(Recorded, LatentDiffusionTask):
    """Stage 2."""


class Features(Recorded, FeatureTask):
    """A task without a guard."""


def assert_exchanges(run: Path, expected: int) -> None:
    """Each of the first steps had so many, all of sums."""
    steps = json.loads((run / "exchanges.json").read_text())
    assert steps[:3] == [["all_reduce"] * expected] * 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "parts", "expected"),
    [
        # Each: what the guard asks, in stage 1 also of each part, and the means that are logged.
        # Stage 2 with whole batches: test_launch.py, in a run that it needs anyway.
        (Stage2, 2, 2),
        (Stage1, 1, 3),
        (Stage1, 2, 4),
        (Features, 1, 2),
    ],
)
def test_a_step_has_no_exchange_of_its_own_for_the_wish_to_end(
    tmp_path: Path, task: type, parts: int, expected: int
) -> None:
    configs = {Stage1: tiny.autoencoder, Stage2: tiny.class2img, Features: tiny.features}
    config = configs[task]()
    config.task.target = f"{HERE}.{task.__name__}"
    if task is Stage1:
        config.task.params.objective.params.disc_start = 100
    config.trainer |= {"max_steps": 4, "accumulate_grad_batches": parts}
    config.every = {"log": 1, "validation": 100, "checkpoint": 100, "images": 0}
    assert_exchanges(launch(config, 2, tmp_path), expected)
