"""A small model of every published kind of condition, from the original's YAML and checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from ldm.compat.compvis.weights import to_compvis
from ldm.conditioners.spatial import LatentImage
from ldm.config import instantiate, load_config
from ldm.errors import CheckpointError
from ldm.load.model import load_model
from ldm.samplers.ddim import DDIM
from ldm.samplers.noise import SeededNoise
from tests.compat.compvis.test_config import ENCODERS, class_embedder, first_stage, ldm, unet

TOKENS = {"n_embed": 12, "n_layer": 1, "vocab_size": 9, "max_seq_len": 5, "use_tokenizer": False}
IDENTITY = {"target": "torch.nn.Identity"}
ATTENDING = {"use_spatial_transformer": True, "context_dim": 12}
N = 2


def values(low: float, high: float, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(N, *shape, generator=generator) * (high - low) + low


def ids(count: int, *shape: int) -> Tensor:
    return torch.randint(count, (N, *shape), generator=torch.Generator().manual_seed(1))


KINDS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Tensor]]] = {
    "class": (
        {"cond_stage_config": class_embedder(n_classes=11, key="class_label")},
        ATTENDING,
        {"class_label": ids(11)},
    ),
    "adm": (
        {
            "cond_stage_config": IDENTITY,
            "cond_stage_key": "class_label",
            "conditioning_key": "adm",
        },
        {"num_classes": 11},
        {"class_label": ids(11)},
    ),
    "text": (
        {
            "cond_stage_config": {"target": f"{ENCODERS}BERTEmbedder", "params": TOKENS},
            "cond_stage_key": "caption",
        },
        ATTENDING,
        {"tokens": ids(9, 5)},
    ),
    "layout": (
        {
            "cond_stage_config": {"target": f"{ENCODERS}BERTEmbedder", "params": TOKENS},
            "cond_stage_key": "coordinates_bbox",
        },
        ATTENDING,
        {"box_tokens": ids(9, 5)},
    ),
    "semantic": (
        {
            "cond_stage_config": {
                "target": f"{ENCODERS}SpatialRescaler",
                "params": {"n_stages": 1, "in_channels": 4, "out_channels": 3},
            },
            "cond_stage_key": "segmentation",
        },
        {"in_channels": 6},
        {"segmentation": ids(4, 16, 16)},
    ),
    "super-resolution": (
        {"cond_stage_config": IDENTITY, "cond_stage_key": "LR_image"},
        {"in_channels": 6},
        {"lr_image": values(-1, 1, 3, 8, 8)},
    ),
    "inpainting": (
        {"cond_stage_config": "__is_first_stage__", "cond_stage_key": "masked_image"},
        {"in_channels": 7},
        {"masked_image": values(-1, 1, 3, 16, 16), "mask": ids(2, 1, 16, 16).float()},
    ),
    "retrieval": (
        {"cond_stage_config": IDENTITY, "cond_stage_key": "nix"},
        ATTENDING,
        {"neighbours": values(-1, 1, 4, 12)},
    ),
}


def config_file(kind: str, folder: Path) -> Path:
    settings, sizes, _ = KINDS[kind]
    route = "crossattn" if "context_dim" in sizes else "concat"
    settings = {"conditioning_key": route, "cond_stage_trainable": True, **settings}
    stage = first_stage("VQModelInterface")
    tree = ldm(**settings, first_stage_config=stage, unet_config=unet(**sizes))
    file = folder / "theirs.yaml"
    file.write_text(yaml.safe_dump({"model": tree}))
    return file


def published_state(model: Any) -> dict[str, Tensor]:
    """What the original's training code would have saved of the model."""
    shadow = {f"denoiser.{key}": p + 1 for key, p in model.denoiser.named_parameters()}
    twice = any(isinstance(part, LatentImage) for part in model.conditioners)
    schedule = dict(model.schedule.named_buffers())
    state = to_compvis(model.state_dict(), schedule, shadow, first_stage_twice=twice)
    return {key: value for key, value in state.items() if key != "scale_factor"}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_loads_learns_and_samples(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    file = config_file(kind, tmp_path)
    model = instantiate(load_config(file).model)
    for parameter in model.parameters():  # nothing stays zero, so that everything matters
        torch.nn.init.normal_(parameter, std=0.1)
    state = published_state(model)
    torch.save({"state_dict": state, "global_step": 3}, tmp_path / "theirs.ckpt")
    loaded: Any = load_model(file, tmp_path / "theirs.ckpt", ema=False)
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    averaged: Any = load_model(file, tmp_path / "theirs.ckpt")
    key = "denoiser.time_embed.0.weight"
    assert torch.equal(averaged.state_dict()[key], model.state_dict()[key] + 1)

    batch = KINDS[kind][2]
    images = values(-1, 1, 3, 16, 16)
    loss, _ = loaded.train()({"image": images, **batch}, torch.Generator().manual_seed(0))
    loss.backward()
    unused = ("conditioners.0.transformer.to_logits", "autoencoder.")
    for name, parameter in loaded.named_parameters():
        learns = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        assert learns is not name.startswith(unused), name

    def sample(entries: dict[str, Tensor]) -> Tensor:
        return loaded.eval().sample(entries, (16, 16), DDIM(2), SeededNoise(range(N)))

    one = sample(batch)
    assert one.shape == (N, 3, 16, 16)
    for name, value in batch.items():
        other = value.roll(1, 0) if len(value.unique()) > 1 else value + 1
        assert not torch.allclose(sample({**batch, name: other}), one), name


@pytest.mark.parametrize("change", ["missing", "surplus", "misshapen"])
def test_the_load_is_strict(kind: str, change: str, tmp_path: Path) -> None:
    file = config_file(kind, tmp_path)
    model = instantiate(load_config(file).model)
    state = published_state(model)
    own = [key for key in state if key.startswith("cond_stage_model.")]
    key = own[0] if own else "model.diffusion_model.out.2.bias"
    if change == "missing":
        del state[key]
    elif change == "surplus":
        state["cond_stage_model.surplus"] = torch.zeros(1)
    else:
        state[key] = torch.zeros(1, 2, 3)
    torch.save({"state_dict": state}, tmp_path / "theirs.ckpt")
    with pytest.raises(CheckpointError, match=r"theirs\.ckpt"):
        load_model(file, tmp_path / "theirs.ckpt", ema=False)
