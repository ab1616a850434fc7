from __future__ import annotations

from types import SimpleNamespace
from unittest.mock import Mock

import torch
from torch import nn

from ldm.training.callbacks.ema import EMACallback
from ldm.training.callbacks.images import EpochOfData


def _task(value: float) -> SimpleNamespace:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, value)
    return SimpleNamespace(model=model)


def test_the_average_moves_once_per_optimiser_step() -> None:
    """Batches that only accumulate gradients leave the global step, and the average, alone."""
    task, callback = _task(0.0), EMACallback(decay=0.5)
    callback.on_fit_start(Mock(global_step=0), task)
    nn.init.constant_(task.model.weight, 1.0)
    for step in (0, 0, 1, 1, 1):
        callback.on_train_batch_end(Mock(global_step=step), task)
    assert callback.ema is not None
    assert callback.ema.num_updates == 1


def test_a_resumed_run_does_not_count_the_steps_before_it() -> None:
    """Lightning restores its step between the two hooks."""
    task, callback = _task(0.0), EMACallback(decay=0.5)
    callback.on_fit_start(Mock(global_step=0), task)
    callback.on_train_start(Mock(global_step=4), task)
    callback.on_train_batch_end(Mock(global_step=4), task)  # a batch of accumulation
    assert callback.ema is not None
    assert callback.ema.num_updates == 0
    callback.on_train_batch_end(Mock(global_step=5), task)
    assert callback.ema.num_updates == 1


def test_validation_sees_the_average_and_training_the_live_weights() -> None:
    task, callback = _task(0.0), EMACallback(decay=0.5)
    callback.on_fit_start(Mock(global_step=0), task)
    nn.init.constant_(task.model.weight, 1.0)
    callback.on_validation_start(Mock(), task)
    assert task.model.weight.item() == 0.0
    callback.on_validation_end(Mock(), task)
    assert task.model.weight.item() == 1.0


def test_an_exception_during_validation_restores_the_live_weights() -> None:
    task, callback = _task(0.0), EMACallback(decay=0.5)
    callback.on_fit_start(Mock(global_step=0), task)
    nn.init.constant_(task.model.weight, 1.0)
    callback.on_validation_start(Mock(), task)
    callback.on_exception()
    assert task.model.weight.item() == 1.0


def test_a_checkpoint_carries_the_average() -> None:
    task, callback = _task(3.0), EMACallback(decay=0.5)
    callback.on_fit_start(Mock(global_step=0), task)
    checkpoint: dict[str, object] = {}
    callback.on_save_checkpoint(Mock(), task, checkpoint)

    resumed, other = EMACallback(decay=0.5), _task(9.0)
    resumed.on_load_checkpoint(Mock(), other, checkpoint)
    resumed.on_fit_start(Mock(global_step=7), other)
    assert resumed.ema is not None
    assert torch.equal(resumed.ema.shadow["weight"], torch.full((1, 1), 3.0))


def test_data_are_told_of_epochs() -> None:
    data = Mock(spec=["set_epoch"])
    EpochOfData().on_train_epoch_start(Mock(current_epoch=4, datamodule=data), Mock())
    data.set_epoch.assert_called_once_with(4)
    EpochOfData().on_train_epoch_start(Mock(current_epoch=4, datamodule=Mock(spec=[])), Mock())
