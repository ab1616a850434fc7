"""Native first stages from the arguments of the original code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ldm.autoencoders.kl import AutoencoderKL
from ldm.autoencoders.networks import Architecture
from ldm.autoencoders.quantizer import VectorQuantizer
from ldm.autoencoders.vq import AutoencoderVQ

NAMES = {
    "in_channels": "in_channels",
    "out_ch": "out_channels",
    "ch": "channels",
    "ch_mult": "channel_mult",
    "num_res_blocks": "num_res_blocks",
    "attn_resolutions": "attn_resolutions",
    "resolution": "resolution",
    "z_channels": "z_channels",
    "dropout": "dropout",
    "resamp_with_conv": "resample_with_conv",
    "tanh_out": "tanh_out",
}


def architecture(ddconfig: Mapping[str, Any]) -> Architecture:
    attention = ddconfig.get("attn_type", "vanilla")
    assert attention in ("vanilla", "none")
    options = {NAMES[k]: v for k, v in ddconfig.items() if k not in ("attn_type", "double_z")}
    return Architecture(mid_attention=attention != "none", **options)


def autoencoder(config: Mapping[str, Any]) -> AutoencoderKL | AutoencoderVQ:
    sizes, dim = architecture(config["ddconfig"]), config["embed_dim"]
    if config["ddconfig"]["double_z"]:
        return AutoencoderKL(sizes, dim)
    return AutoencoderVQ(sizes, dim, VectorQuantizer(config["n_embed"], dim))
