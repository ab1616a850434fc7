"""Training across the start of the discriminator, in every way people run it.

(float32, bfloat16 autocast) x (1, 2 processes over gloo) x (whole batches, four parts) x (KL, VQ):
200 steps stay finite and the reconstruction loses less than 1 dB after the discriminator starts.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from ldm.checkpoint import load_training_checkpoint
from ldm.visualization.curves import read_metrics
from tests.training import tiny
from tests.training.launched import launch

STEPS, DISC_START = 200, 100
MATRIX = list(
    itertools.product(("kl", "vq"), ("32-true", "bf16-mixed"), (1, 2), (1, 4))  # processes, parts
)
IN_DEFAULT_SUITE = {("vq", "32-true", 1, 1)}


def stability_config(kind: str, precision: str, processes: int, parts: int) -> DictConfig:
    config = tiny.vq_autoencoder() if kind == "vq" else tiny.autoencoder()
    config.name = "stability"
    config.data.params.batch_size = 8
    config.data.params.train.params.length = 512
    config.data.params.validation.params.length = 16
    config.task.params.objective.params.disc_start = DISC_START
    config.task.params.objective.params.disc_warmup = 50
    config.task.params.lr_schedule = {
        "target": "ldm.training.WarmupCosine",
        "params": {"warmup_steps": 10, "decay_steps": STEPS, "end": 0.1},
    }
    config.task.params.discriminator_optimizer.params = {"lr": 2e-4, "betas": [0.5, 0.9]}
    if config.data.params.batch_size // (processes * parts) < 4:  # as docs/autoencoders.md advises
        config.task.params.objective.params.discriminator.params.norm = "group"
    architecture = config.model.params.architecture.params
    architecture.channels, architecture.norm_groups, architecture.z_channels = 16, 4, 4
    config.model.params.embed_dim = 4
    if kind == "kl":
        config.model.params.initial_logvar = -4
    else:
        config.model.params.quantizer.params = {"num_codes": 64, "dim": 4, "restart_after": 20}
    config.trainer = {
        "max_steps": STEPS,
        "accelerator": "cpu",
        "precision": precision,
        "devices": processes,
        "accumulate_grad_batches": parts,
    }
    config.every = {"log": 1, "validation": 20, "checkpoint": STEPS, "images": STEPS}
    config.ema_decay = None  # judge the weights themselves, which the average would flatter
    return config


@pytest.mark.parametrize(
    ("kind", "precision", "processes", "parts"),
    [
        pytest.param(*cell, marks=() if cell in IN_DEFAULT_SUITE else pytest.mark.slow)
        for cell in MATRIX
    ],
)
def test_across_the_start_of_the_discriminator(
    tmp_path: Path, kind: str, precision: str, processes: int, parts: int
) -> None:
    run = launch(stability_config(kind, precision, processes, parts), processes, tmp_path)
    said = (tmp_path / "stdout").read_text()
    assert said.count("complete at step 200") == 1  # one process reports
    curves = read_metrics(run / "metrics.jsonl")
    for name, points in curves.items():
        assert torch.tensor([value for _, value in points]).isfinite().all(), name
    assert curves["train/disc_loss"][0][0] == DISC_START + 1
    assert curves["train/d_weight"][-1][1] > 0
    saved = load_training_checkpoint(run / "checkpoints" / "last.ckpt")
    del saved["callbacks"]  # Lightning's best value so far, of a checkpoint without a monitor: inf
    _assert_all_finite(saved)
    psnr = dict(curves["val/psnr"])
    assert set(psnr) == set(range(20, STEPS + 1, 20))
    assert psnr[DISC_START] > psnr[20]  # it had learnt something to lose
    after = [value for step, value in psnr.items() if step > DISC_START]
    assert min(after) > psnr[DISC_START] - 1.0, psnr


def _assert_all_finite(value: Any, path: str = "") -> None:
    if isinstance(value, torch.Tensor):
        assert value.isfinite().all(), path
    elif isinstance(value, dict):
        for key, child in value.items():
            _assert_all_finite(child, f"{path}.{key}")
    elif isinstance(value, list):
        for i, child in enumerate(value):
            _assert_all_finite(child, f"{path}[{i}]")
