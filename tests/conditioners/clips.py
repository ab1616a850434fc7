"""CLIP encoders of a few kilobytes, and files with weights for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

TEXT = {
    "vocab_size": 49408,
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "max_position_embeddings": 8,
}
"""Sizes of a ``CLIPTextConfig``."""

OPEN: dict[str, Any] = {
    "embed_dim": 6,
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 3},
    "vision_cfg": {"image_size": 8, "patch_size": 4, "width": 8, "head_width": 4, "layers": 2},
}
"""An architecture of open_clip."""


def text_model(seed: int = 0) -> CLIPTextModel:
    """A CLIP text encoder with random weights, none of them zero."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = CLIPTextModel(CLIPTextConfig(**TEXT)).eval()
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter) * 0.2)
    return model


def write_folder(folder: Path, seed: int = 0) -> str:
    """A folder as the hub has them; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    text_model(seed).save_pretrained(folder)
    return str(folder)


def ids(*lengths: int, length: int = 8) -> torch.Tensor:
    """Ids (B, length) of texts of so many words, which end and are padded as CLIP's do."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.full((len(lengths), length), 49407)
    for row, words in zip(rows, lengths, strict=True):
        row[0] = 49406
        row[1 : words + 1] = torch.randint(1, 49000, (words,), generator=generator)
    return rows


def write_clip(root: Path, arch: dict[str, Any]) -> open_clip.CLIP:
    """A CLIP with random weights, and tiny.json and clip.safetensors of it in a folder."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.CLIP(**arch).eval()
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter) * 0.2)
    save_file(model.state_dict(), root / "clip.safetensors")
    (root / "tiny.json").write_text(json.dumps(arch))
    return model
