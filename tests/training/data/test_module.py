from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest
import torch

from ldm.data.scenes.dataset import SceneDataset
from ldm.errors import ConfigError, DataError
from ldm.training.data.module import DataModule


def _module(batch_size: int, **trainer: Any) -> DataModule:
    scenes = SceneDataset(16, 12)
    module = DataModule(scenes, SceneDataset(16, 5, split="validation"), batch_size)
    if trainer:
        module.trainer = Mock(**({"global_rank": 0, "current_epoch": 0} | trainer))
    return module


def test_batches_of_both_loaders() -> None:
    module = _module(4)
    batches = list(module.train_dataloader())
    assert [len(batch["image"]) for batch in batches] == [4, 4, 4]
    assert isinstance(batches[0]["caption"], list)
    assert [len(batch["image"]) for batch in module.val_dataloader()] == [4, 1]


def test_validation_comes_in_the_same_order_each_time() -> None:
    first, second = (next(iter(_module(4).val_dataloader())) for _ in range(2))
    assert torch.equal(first["image"], second["image"])


def test_batch_size_is_that_of_an_optimiser_step_over_all_devices() -> None:
    module = _module(8, world_size=2, accumulate_grad_batches=2)
    assert len(next(iter(module.train_dataloader()))["image"]) == 2
    with pytest.raises(ConfigError, match=r"devices x num_nodes x accumulate_grad_batches = 3$"):
        _module(8, world_size=3, accumulate_grad_batches=1).train_dataloader()


def test_too_little_data_is_named() -> None:
    with pytest.raises(DataError, match="12 items, fewer than batch_size 16"):
        _module(16).train_dataloader()
    with pytest.raises(ConfigError, match="at least 1"):
        _module(0)
