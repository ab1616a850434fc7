"""Small first stages of every kind, as native nodes and with weights that are nowhere zero."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ldm.config import instantiate

DEEP = {"channels": 32, "channel_mult": [1, 2, 4, 4], "num_res_blocks": 2, "norm_groups": 32}


def kl(embed_dim: int = 4, **sizes: Any) -> dict[str, Any]:
    return {
        "target": "ldm.autoencoders.AutoencoderKL",
        "params": {"embed_dim": embed_dim, "architecture": architecture(**sizes)},
    }


def vq(embed_dim: int = 4, codes: int = 17, quantizer: Any = (), **sizes: Any) -> dict[str, Any]:
    return {
        "target": "ldm.autoencoders.AutoencoderVQ",
        "params": {
            "embed_dim": embed_dim,
            "architecture": architecture(**sizes),
            "quantizer": {
                "target": "ldm.autoencoders.VectorQuantizer",
                "params": {"num_codes": codes, "dim": embed_dim, **dict(quantizer)},
            },
        },
    }


def architecture(**changes: Any) -> dict[str, Any]:
    params = {
        "channels": 8,
        "channel_mult": [1, 2],
        "num_res_blocks": 1,
        "resolution": 16,
        "norm_groups": 4,
    }
    return {"target": "ldm.autoencoders.Architecture", "params": params | changes}


KINDS: dict[str, dict[str, Any]] = {
    "kl": kl(),
    "kl-attention": kl(attn_resolutions=[16, 4], channel_mult=[1, 2, 3]),
    "kl-noattn": kl(mid_attention=False, attn_resolutions=[8]),
    "kl-deep": kl(**DEEP, resolution=32, attn_resolutions=[4]),
    "kl-f1": kl(channel_mult=[1], num_res_blocks=3),
    "kl-channels": kl(embed_dim=7, z_channels=7, in_channels=12, out_channels=5, dropout=0.1),
    "vq": vq(),
    "vq-attention": vq(attn_resolutions=[8], embed_dim=3, z_channels=6),
    "vq-noattn": vq(mid_attention=False, channel_mult=[1, 1, 2]),
    "vq-upkeep": vq(quantizer={"ema_decay": 0.99, "restart_after": 9, "beta": 1.0}),
}


def build(node: dict[str, Any], seed: int = 0) -> Any:
    """The autoencoder in eval mode."""
    torch.manual_seed(seed)
    model: nn.Module = instantiate(node)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = 1.0 if "embedding" in name else 0.05
            parameter.add_(torch.randn_like(parameter) * spread)
    return model.eval()


def images(node: dict[str, Any], height: int = 24, width: int = 16) -> torch.Tensor:
    channels = node["params"]["architecture"]["params"].get("in_channels", 3)
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, channels, height, width, generator=generator) * 2 - 1
