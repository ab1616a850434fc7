"""Every experiment under ``configs/``, shrunk by overrides only, trains, samples and resumes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ldm.checkpoint import load_training_checkpoint
from ldm.config import instantiate, load_config
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.load.model import load_model
from ldm.samplers.ddim import DDIM
from ldm.samplers.noise import SeededNoise
from ldm.training.run import train
from ldm.training.run_folder import RunFolder
from tests.experiments import EXPERIMENTS, before, make_world, name_of, outside, random_data, shrunk

pytestmark = pytest.mark.usefixtures("_without_curves")

QUICK = {
    "autoencoder/kl-f8",
    "autoencoder/vq-f4",
    "class/cin256-v2",
    "classifier/cin256-classifier",
    "folder/text",
    "inpainting/places-ldm-4-kl",
    "laptop/text_frozen",
    "layout/coco-ldm-8",
    "pixel/ddpm-cifar10-class",
    "retrieval/rdm-768",
    "semantic/landscapes-256",
    "super_resolution/imagenet-ldm-4",
    "text/clip-ldm-8",
    "unconditional/lsun-churches-ldm-8",
}
"""One of each kind; the others are marked slow."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    make_world(root)
    return root


def steps(folder: RunFolder) -> list[int]:
    """Optimiser steps that were logged, with finite values only."""
    logs = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    training = [entry for entry in logs if entry.keys() & {"train/loss", "train/rec_loss"}]
    assert all(math.isfinite(value) for entry in training for value in entry.values())
    return [entry["step"] for entry in training]


def moved(first: dict[str, Tensor], second: dict[str, Tensor]) -> set[str]:
    """Parts of the model whose weights differ."""
    return {
        key.split(".")[1]
        for key, value in second.items()
        if key.startswith("model.") and not torch.equal(value, first[key])
    }


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=() if name_of(path) in QUICK else pytest.mark.slow)
        for path in EXPERIMENTS
        if path.parent.name != "toy"  # no images: tests/scripts/test_toy.py
    ],
    ids=name_of,
)
def test_it_trains_samples_saves_and_resumes(path: Path, world: Path, tmp_path: Path) -> None:
    files = (path, *random_data(path))
    overrides = outside(path, world) + before(path, world / "runs", small=True) + shrunk(path)
    config = load_config(*files, overrides=overrides)
    folder = RunFolder(tmp_path / "run")
    train(config, folder)
    assert steps(folder) == [1, 2]

    model: Any = load_model(folder.path)
    batch = next(iter(instantiate(config.data, "data").val_dataloader()))
    if isinstance(model, LatentDiffusion):
        assert list(folder.samples.glob("step-*2.png"))
        images = model.sample(
            batch,
            size=tuple(batch["image"].shape[-2:]),
            sampler=DDIM(steps=2),
            noise=SeededNoise(range(len(batch["image"]))),
            guidance_scale=config.task.params.get("preview_guidance", 1.0),
        )
        assert images.shape == batch["image"].shape
        assert images.isfinite().all()
    if hasattr(model, "decoder"):
        assert "train/disc_loss" in folder.metrics.read_text()
        assert "val/psnr" in folder.metrics.read_text()

    saved = load_training_checkpoint(folder.last)
    assert saved["global_step"] == 2
    train(load_config(*files, overrides=[*overrides, "trainer.max_steps=4"]), folder, resume=True)
    assert steps(folder) == [1, 2, 3, 4]
    resumed = load_training_checkpoint(folder.last)
    assert resumed["global_step"] == 4
    learning = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert moved(saved["state_dict"], resumed["state_dict"]) == learning
