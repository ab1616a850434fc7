"""What a model of inpainting takes for a hole, and what its data show it there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from ldm.errors import DataError
from ldm.training.run import train
from ldm.training.run_folder import RunFolder
from tests.training import tiny


def inpainting(model: float, data: float, low: float = -1.0) -> Any:
    """A tiny model with the published inputs, or those of Stable Diffusion, for one step."""
    config = tiny.class2img(trainer={"max_steps": 1}, every={"images": 0})
    config.model.params.conditioners = [
        *config.model.params.conditioners,
        {"target": "ldm.conditioners.ResizedMask", "params": {"low": low}},
        {"target": "ldm.conditioners.LatentImage", "params": {"hidden": model}},
    ]
    config.model.params.denoiser.params.in_channels = 5
    for split in ("train", "validation"):
        images = config.data.params[split]
        masks = {"target": "ldm.data.lama_masks", "params": {"name": "training-256"}}
        params = {"images": images, "masks": masks, "hidden": data}
        config.data.params[split] = {"target": "ldm.data.Inpainting", "params": params}
    return OmegaConf.create(OmegaConf.to_container(config))


@pytest.mark.parametrize(("hidden", "low"), [(-1.0, -1.0), (0.0, 0.0), (0.5, 0.0)])
def test_one_step_of_training(tmp_path: Path, hidden: float, low: float) -> None:
    folder = RunFolder(tmp_path / "run")
    train(inpainting(hidden, hidden, low), folder)
    assert folder.complete


@pytest.mark.parametrize(("model", "data"), [(-1.0, 0.0), (0.0, -1.0), (0.0, 0.5), (1.0, -1.0)])
def test_holes_of_another_value_are_refused(tmp_path: Path, model: float, data: float) -> None:
    folder = RunFolder(tmp_path / "run")
    message = f"'masked_image' has values from {data:g} to {data:g} .*expects {model:g}"
    with pytest.raises(DataError, match=message):
        train(inpainting(model, data), folder)
    assert not folder.path.exists()
