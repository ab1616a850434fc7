"""First stages of images with one, four and twelve channels, on rectangles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from PIL import Image

from ldm.autoencoders.tiled import reconstruct
from ldm.config import instantiate
from ldm.evaluation.metrics.reconstruction import psnr
from ldm.load.model import load_model
from ldm.training.run import train
from ldm.training.run_folder import RunFolder
from tests.training import tiny

SIZE = (48, 80)


def _write_arrays(folder: Path, channels: int, count: int = 12) -> None:
    """A smooth field, of which every channel shows more or less, as 16-bit integers."""
    folder.mkdir()
    y, x = np.mgrid[0:52, 0:90] / 52
    for index in range(count):
        rng = np.random.default_rng(index)
        field = np.sin(rng.uniform(1, 9) * x + rng.uniform(1, 9) * y)
        bands = [gain * field for gain in np.linspace(1, 0.5, channels)]
        np.save(folder / f"{index}.npy", (np.stack(bands, -1) * 4000 + 5000).astype(np.uint16))


def _config(kind: str, channels: int, folder: Path) -> DictConfig:
    config = tiny.vq_autoencoder() if kind == "vq" else tiny.autoencoder()
    config.model.params.architecture.params.in_channels = channels
    if kind == "kl":
        config.model.params.initial_logvar = -4
    objective = config.task.params.objective.params
    objective.discriminator.params.in_channels = channels
    objective.disc_start = 15
    params = {"root": str(folder), "size": list(SIZE), "channels": channels}
    params |= {"value_range": [1000, 9000]}
    for split in ("train", "validation"):
        config.data.params[split] = {
            "target": "ldm.data.ArrayFolder",
            "params": params | {"split": split, "validation_fraction": 0.3},
        }
    config.trainer.max_steps = 20
    config.every = {"log": 5, "validation": 20, "checkpoint": 20, "images": 20}
    config.ema_decay = None
    config.task.params.optimizer.params.lr = 5e-3  # something to see after 20 steps
    return config


@pytest.mark.parametrize(("kind", "channels"), [("kl", 1), ("vq", 4), ("kl", 12)])
def test_train_and_reconstruct(tmp_path: Path, kind: str, channels: int) -> None:
    _write_arrays(tmp_path / "arrays", channels)
    config = _config(kind, channels, tmp_path / "arrays")
    folder = RunFolder(tmp_path / "run")
    train(config, folder)
    assert folder.complete
    picture = Image.open(folder.samples / "step-0000020.png")
    assert picture.mode == "RGB"
    assert picture.width > picture.height / 2  # a row of wide images above their copies
    image: Any = instantiate(config.data).validation[0]["image"][None]
    assert image.shape == (1, channels, *SIZE)
    torch.manual_seed(0)
    untrained, trained = instantiate(config.model).eval(), load_model(folder.path)
    with torch.no_grad():
        before, after = (psnr(image, reconstruct(m, image)) for m in (untrained, trained))
        odd = reconstruct(trained, image[:, :, :47, :79])  # type: ignore[arg-type]
    assert after > before + 1
    assert odd.shape == (1, channels, 47, 79)
