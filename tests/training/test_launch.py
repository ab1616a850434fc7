"""Two processes over gloo train like one with the same batch, and never part ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from ldm.checkpoint import load_training_checkpoint
from ldm.training.run import train
from ldm.training.run_folder import RunFolder
from ldm.visualization.curves import read_metrics
from tests.parity import assert_close
from tests.training import tiny
from tests.training.launched import launch
from tests.training.test_exchanges import assert_exchanges


def _losses(run: Path, name: str) -> torch.Tensor:
    return torch.tensor([value for _, value in read_metrics(run / "metrics.jsonl")[name]])


def _plain_descent(config: DictConfig, *names: str) -> DictConfig:
    """SGD: Adam's first steps have the size of lr whatever the size of a gradient's rounding."""
    for name in names:
        config.task.params[name] = {
            "target": "torch.optim.SGD",
            "partial": True,
            "params": {"lr": 0.05},
        }
    return config


def test_stage_2_has_the_same_losses_in_two_processes_and_in_parts(tmp_path: Path) -> None:
    """Order, posteriors, times, noise and dropped conditions are those of the whole batch.

    The processes wait for each other once in a step besides; ``test_exchanges.py`` says for what.
    """
    config = _plain_descent(tiny.class2img(), "optimizer")
    config.model.params.denoiser.params.dropout = 0.0  # each process drops features by itself
    config.data.params.train.params.length = 18  # two and a half epochs of 4.5 batches
    config.data.params.validation.params.length = 7
    config.trainer.max_steps = 11
    config.every = {"log": 1, "validation": 5, "checkpoint": 100, "images": 0}
    whole = launch(config, 1, tmp_path / "whole")
    recorded = OmegaConf.merge(config, {"task": {"target": "tests.training.test_exchanges.Stage2"}})
    two = launch(recorded, 2, tmp_path / "two", by="module")  # type: ignore[arg-type]
    assert_exchanges(two, 2)
    config.trainer.accumulate_grad_batches = 2
    parts = launch(config, 1, tmp_path / "parts")
    scale = _scale(whole)
    for run in (two, parts):
        assert abs(_scale(run) / scale - 1) < 1e-6
        for name in ("train/loss", "train/grad_norm", "val/loss"):
            assert_close(_losses(run, name), _losses(whole, name), rtol=1e-5, what=name)
    assert len(_losses(whole, "train/loss")) == 11


def _scale(run: Path) -> float:
    saved = load_training_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"]
    return float(saved["model.scale_factor"])


@pytest.mark.slow
def test_stage_1_has_the_same_losses_in_two_processes(tmp_path: Path) -> None:
    config = _plain_descent(tiny.autoencoder(), "optimizer", "discriminator_optimizer")
    config.task.params.objective.params.discriminator.params.norm = "group"
    config.data.params.train.params.length = 10
    config.trainer.max_steps = 6
    config.every = {"log": 1, "validation": 3, "checkpoint": 100, "images": 0}
    whole, two = (launch(config, n, tmp_path / str(n)) for n in (1, 2))
    for name in ("train/rec_loss", "train/total_loss", "train/disc_loss", "val/rec_loss"):
        assert_close(_losses(two, name), _losses(whole, name), rtol=1e-5, what=name)


def _whole_set_in_every_batch(**changes: Any) -> DictConfig:
    """Each batch is the whole set: its order, which differs with the processes, does not matter."""
    config = tiny.vq_autoencoder(**changes)
    config.data.params.batch_size = config.data.params.train.params.length = 8
    config.model.params.quantizer.params = {"num_codes": 16, "dim": 2, "ema_decay": 0.8}
    params = config.task.params
    params.objective.params |= {"disc_start": 1, "disc_warmup": 2, "r1_weight": 1.0, "r1_every": 1}
    params.objective.params.discriminator.params.norm = "group"  # batch norm sees half a batch
    for name in ("optimizer", "discriminator_optimizer"):
        params[name] = {"target": "torch.optim.SGD", "partial": True, "params": {"lr": 0.05}}
    config.trainer.max_steps = 3
    config.every = {"log": 1, "validation": 3, "checkpoint": 3, "images": 3}
    return config


def test_two_processes_train_like_one(tmp_path: Path) -> None:
    """Gradients, adaptive weight, codebook and its use are those of the whole batch."""
    config = _whole_set_in_every_batch()
    runs = [launch(config, 1, tmp_path / "1"), launch(config, 2, tmp_path / "2", by="command")]
    states = [load_training_checkpoint(run / "checkpoints" / "last.ckpt") for run in runs]
    for key, value in states[0]["state_dict"].items():
        if value.is_floating_point():
            assert_close(states[1]["state_dict"][key], value, rtol=1e-4, what=key)
    curves = [read_metrics(run / "metrics.jsonl") for run in runs]
    for name in ("train/d_weight", "train/codebook_usage", "train/epoch_perplexity", "val/psnr"):
        values = [torch.tensor([value for _, value in curve[name]]) for curve in curves]
        assert_close(values[1], values[0], rtol=1e-4, what=name)
    assert max(value for _, value in curves[0]["train/d_weight"]) > 0


@pytest.mark.slow
def test_both_processes_leave_out_a_batch_that_is_broken_in_one(tmp_path: Path) -> None:
    """Otherwise the one would wait for the gradients of the other for ever."""
    config = _whole_set_in_every_batch()
    config.data.params.train = {
        "target": "tests.training.test_autoencoder_task.ScenesWithNaN",
        "params": {"broken": [5], "length": 16},
    }
    config.model.params.quantizer.params |= {"restart_after": 1}
    run = launch(config, 2, tmp_path)
    assert (tmp_path / "stderr").read_text().count("batch left out") >= 1
    saved = load_training_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"]
    assert all(value.isfinite().all() for value in saved.values())


@pytest.mark.parametrize(
    ("kind", "limit"), [("class2img", 1), ("class2img", 2), ("autoencoder", 2)]
)
def test_a_limited_validation_sees_the_same_images_in_parts(
    tmp_path: Path, kind: str, limit: int
) -> None:
    """The limit counts batches of an optimiser step, not the parts that are worked on in turn."""
    values = {}
    for parts, batches in ((1, limit), (2, limit), (1, 3)):
        every = {"log": 1, "validation": 1, "checkpoint": 1, "images": 0}
        config = getattr(tiny, kind)(every=every)
        config.data.params.validation.params.length = 12
        config.trainer = {"max_steps": 1, "accelerator": "cpu", "limit_val_batches": batches}
        config.trainer.accumulate_grad_batches = parts
        if kind == "class2img":
            config.model.params.denoiser.params.dropout = 0.0  # each part draws its own
        folder = RunFolder(tmp_path / f"{parts}-{batches}")
        train(config, folder)
        monitor = {"class2img": "val/loss_simple", "autoencoder": "val/rec_loss"}[kind]
        values[parts, batches] = _losses(folder.path, monitor)
    assert_close(values[2, limit], values[1, limit], rtol=1e-5, what=monitor)
    assert not torch.allclose(values[1, 3], values[1, limit], rtol=1e-3)
