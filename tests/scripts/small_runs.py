"""Models of the configs under ``configs/``, shrunk, with random weights that conditions reach."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from ldm.config import instantiate, load_config, save_config
from ldm.load.model import inline_pretrained
from tests.experiments import CONFIGS, before, random_data, shrunk


def small_run(name: str, root: Path, *overrides: str) -> Path:
    """The folder of a config such as "layout/coco-ldm-8", with random data of its schema.

    A model that was trained for a step or two hardly sees its conditions, since what reaches the
    output begins with zeros. Here nothing is zero, so a wrong condition makes another image.
    """
    path = CONFIGS / f"{name}.yaml"
    changes = [*before(path, root / "first", small=True), *shrunk(path)]
    changes += ["model.params.scale_factor=1.0", *overrides]
    config = inline_pretrained(load_config(path, *random_data(path), overrides=changes))
    folder = root / path.stem
    save_config(config, folder / "config.yaml")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: nn.Module = instantiate(config.model, "model")
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter) * 0.2)
    save_file(model.state_dict(), folder / "model.safetensors")
    return folder
