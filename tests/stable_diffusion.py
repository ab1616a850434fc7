"""Stable Diffusion in small: its layout, its names and random weights."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldm.config import instantiate
from ldm.diffusion.schedule import NoiseSchedule
from tests.compat.first_stages import kl
from tests.conditioners.clips import TEXT

CLIP: dict[str, Any] = {
    "target": "ldm.conditioners.CLIPText",
    "params": {
        "path": None,
        "config": TEXT,
        "length": 8,
        "tokenizer": {
            "target": "ldm.conditioners.ClipTokenizer",
            "params": {"length": 8},
        },
    },
}
MODEL: dict[str, Any] = {
    "target": "ldm.diffusion.LatentDiffusion",
    "params": {
        "scale_factor": 0.18215,
        "autoencoder": kl(),
        "conditioners": [CLIP],
        "schedule": {
            "target": "ldm.diffusion.NoiseSchedule",
            "params": {"start": 0.00085, "end": 0.012},
        },
        "denoiser": {
            "target": "ldm.denoisers.UNet",
            "params": {
                "in_channels": 4,
                "out_channels": 4,
                "model_channels": 16,
                "channel_mult": [1, 2],
                "num_res_blocks": 1,
                "attention_resolutions": [2],
                "num_heads": 2,
                "use_spatial_transformer": True,
                "context_dim": TEXT["hidden_size"],
                "legacy": False,
                "norm_groups": 4,
            },
        },
    },
}
UNCONDITIONAL: dict[str, Any] = {
    "target": MODEL["target"],
    "params": {key: value for key, value in MODEL["params"].items() if key != "conditioners"}
    | {
        "denoiser": {
            "target": "ldm.denoisers.UNet",
            "params": {
                "in_channels": 4,
                "out_channels": 4,
                "model_channels": 16,
                "channel_mult": [1, 2],
                "num_res_blocks": 1,
                "attention_resolutions": [2],
                "num_head_channels": 8,
                "norm_groups": 4,
            },
        }
    },
}


def build(node: dict[str, Any] = MODEL, seed: int = 0) -> Any:
    """The model in eval mode, with weights that are nowhere zero."""
    torch.manual_seed(seed)
    model: Any = instantiate(node)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


def published(model: Any, shift: float = 0.0) -> OrderedDict[str, Tensor]:
    """State dict under the names of the file ``sd-v1-4.ckpt``.

    Args:
        model: as ``build`` makes it.
        shift: what is added to the weights of the denoiser; their averages stay the model's.
    """
    schedule: NoiseSchedule = model.schedule
    state: OrderedDict[str, Tensor] = OrderedDict(schedule.named_buffers())
    del state["alphas"]
    shadow = {}
    for key, value in model.denoiser.state_dict().items():
        state[f"model.diffusion_model.{key}"] = value + shift
        shadow[f"model_ema.diffusion_model{key.replace('.', '')}"] = value
    state |= {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(3)}
    state |= shadow
    for key, value in model.autoencoder.state_dict().items():
        state[f"first_stage_model.{key}"] = value
    ids = torch.arange(TEXT["max_position_embeddings"])[None]
    state["cond_stage_model.transformer.text_model.embeddings.position_ids"] = ids
    for key, value in model.conditioners[0].state_dict().items():
        state[f"cond_stage_model.{key}"] = value
    return state


def write_checkpoint(file: Path, model: Any, shift: float = 0.0) -> Path:
    """A file as Lightning wrote it in 2022."""
    content = {
        "epoch": 3,
        "global_step": 470000,
        "pytorch-lightning_version": "1.4.2",
        "state_dict": published(model, shift),
        "callbacks": {},
        "optimizer_states": [{"state": {0: {"step": 1}}, "param_groups": [{"lr": 1e-4}]}],
        "lr_schedulers": [],
    }
    torch.save(content, file)
    return file
