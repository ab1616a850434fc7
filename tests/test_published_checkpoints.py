"""Checkpoints of all 32 published configurations, in small, as the original code wrote them.

The numbers of each YAML are shrunk and nothing else; names, schedule buffers, averaged weights and
the objects of Lightning are as published.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from ldm.checkpoint import LoadedCheckpoint, fitting_state
from ldm.compat.compvis.weights import to_compvis
from ldm.conditioners.spatial import LatentImage
from ldm.config import instantiate, load_config
from ldm.errors import CheckpointError
from ldm.load.model import load_model
from tests.parity import official_names, published_configs
from tests.test_checkpoint import foreign_class

WIDTH = 32
NUMBERS = {
    "model_channels": WIDTH,
    "ch": WIDTH,
    "context_dim": WIDTH,
    "n_embed": WIDTH,
    "num_res_blocks": 1,
    "n_layer": 1,
    "num_head_channels": 16,
}


def shrunk(tree: Any) -> Any:
    """The configuration with small numbers."""
    if isinstance(tree, list):
        return [shrunk(value) for value in tree]
    if not isinstance(tree, dict):
        return tree
    result = {}
    for key, value in tree.items():
        if key in ("ch_mult", "channel_mult"):
            result[key] = [1] * len(value)
        elif key == "cond_stage_config" and isinstance(value, dict):
            result[key] = shrunk(value)
            if "embed_dim" in (result[key].get("params") or {}):
                result[key]["params"]["embed_dim"] = WIDTH
        else:
            result[key] = NUMBERS.get(key, shrunk(value))
    return result


def small_config(name: str, folder: Path) -> Path:
    path = name.replace("__", "/")
    configs = published_configs()
    tree = configs.get(f"{path}.yaml") or configs[f"{path}/config.yaml"]
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump({"model": shrunk(tree["model"])}))
    return file


def build(file: Path) -> Any:
    torch.manual_seed(0)
    model = instantiate(load_config(file, complete=False).model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    if hasattr(model, "set_scale_factor"):
        model.set_scale_factor(0.5)
    return model


def published_state(model: Any) -> OrderedDict[str, Tensor]:
    """What the original's training code would have saved; averaged weights are 1 larger."""
    if not hasattr(model, "denoiser"):
        loss = {"loss.logvar": torch.zeros(()), "loss.discriminator.main.0.bias": torch.zeros(64)}
        return OrderedDict(to_compvis(model.state_dict()) | loss)
    shadow = {f"denoiser.{key}": p + 1 for key, p in model.denoiser.named_parameters()}
    twice = any(isinstance(part, LatentImage) for part in model.conditioners)
    schedule = dict(model.schedule.named_buffers())
    state = to_compvis(model.state_dict(), schedule, shadow, 9, first_stage_twice=twice)
    return OrderedDict(state)


@pytest.mark.parametrize("name", official_names())
def test_loads_strictly(name: str, tmp_path: Path) -> None:
    config = small_config(name, tmp_path)
    model = build(config)
    state = published_state(model)
    callback = foreign_class("ModelCheckpoint")
    content = {
        "epoch": 3,
        "global_step": 9,
        "pytorch-lightning_version": "1.4.2",
        "state_dict": state,
        "callbacks": {callback: {"monitor": "val", "object": callback()}},
        "optimizer_states": [{"state": {}, "param_groups": [{"lr": 1e-6}]}],
    }
    torch.save(content, tmp_path / "model.ckpt")
    del sys.modules["gone_lightning"]
    averaged = any(key.startswith("model_ema.") for key in state)
    for ema in (True, False):
        loaded = load_model(config, tmp_path / "model.ckpt", ema=ema).state_dict()
        for key, value in model.state_dict().items():
            moved = averaged and ema and key.startswith("denoiser.")
            want = value + 1 if moved else value
            assert torch.equal(loaded[key], want), key
    _refuse_misfits(model, state)


def _refuse_misfits(model: Any, state: dict[str, Tensor]) -> None:
    def check(changed: dict[str, Tensor], message: str) -> None:
        checkpoint = LoadedCheckpoint(Path("model.ckpt"), changed, "compvis")
        with pytest.raises(CheckpointError, match=message) as error:
            fitting_state(model, checkpoint, ema=False)
        assert "\n" not in str(error.value)

    # One weight of every part: denoiser, first stage, conditioner.
    parts = {key.split(".")[0]: key for key, _ in model.named_parameters()}
    for ours in parts.values():
        theirs = next(iter(to_compvis({ours: torch.zeros(1)})))
        if theirs.startswith("first_stage_model.") and _twice(state, theirs):
            continue  # the copy of the inpainting model has a test of its own
        without = {key: value for key, value in state.items() if key != theirs}
        without = {k: v for k, v in without.items() if k != _average(theirs)}
        check(without, rf"1 missing \({ours}\)")
        check(state | {theirs: torch.zeros(7, 5, 3)}, rf"1 of another shape \({ours}: \(7, 5, 3\)")
        check(state | {f"{theirs}.x": torch.zeros(1)}, rf"1 unexpected \({ours}\.x\)")


def _average(theirs: str) -> str:
    return "model_ema." + theirs.removeprefix("model.").replace(".", "")


def _twice(state: dict[str, Tensor], theirs: str) -> bool:
    return theirs.replace("first_stage_model.", "cond_stage_model.") in state
