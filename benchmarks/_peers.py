"""Networks of this library and the same ones of diffusers, with the same weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from ldm.autoencoders.kl import AutoencoderKL
from ldm.autoencoders.networks import Architecture
from ldm.compat.diffusers.autoencoder import to_diffusers
from ldm.compat.diffusers.unet import unet_to_config
from ldm.compat.diffusers.unet_weights import unet_to_diffusers
from ldm.compat.native import read_unet
from ldm.denoisers.unet import UNet
from ldm.layers.compile import compile_networks

CONTEXT = 256
"""Width of the context."""
TOKENS = 16
LATENTS = 4


def unets(channels: int, device: str) -> tuple[UNet, nn.Module]:
    """A UNet of three levels, each with transformers of heads of 32, and its peer as it comes."""
    params = {
        "in_channels": LATENTS,
        "out_channels": LATENTS,
        "model_channels": channels,
        "channel_mult": [1, 2, 4],
        "num_res_blocks": 2,
        "attention_resolutions": [1, 2, 4],
        "num_head_channels": 32,
        "use_spatial_transformer": True,
        "context_dim": CONTEXT,
        "legacy": False,
    }
    node = {"target": "ldm.denoisers.UNet", "params": params}
    ours = without_zeros(UNet(**params))
    peer = diffusers.UNet2DConditionModel.from_config(unet_to_config(node))
    peer.load_state_dict(unet_to_diffusers(ours.state_dict(), read_unet(node)))
    return ours.to(device, memory_format=torch.channels_last), peer.to(device)


def autoencoders(channels: int, device: str) -> tuple[AutoencoderKL, nn.Module]:
    """A first stage of kl-f8's form (f = 8), and its peer as it comes."""
    mult = (1, 2, 4, 4)
    ours = AutoencoderKL(Architecture(channels=channels, channel_mult=mult), LATENTS)
    peer = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(mult),
        up_block_types=("UpDecoderBlock2D",) * len(mult),
        block_out_channels=tuple(channels * factor for factor in mult),
        layers_per_block=2,
        latent_channels=LATENTS,
    )
    peer.load_state_dict(to_diffusers(ours.state_dict()))
    return ours.to(device, memory_format=torch.channels_last), peer.to(device)


def without_zeros(network: Any) -> Any:
    """Weights as after some training: at the start the last layers of all blocks are zero."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return network


def alternatives(
    ours: nn.Module, peer: nn.Module, copies: Callable[[nn.Module], nn.Module], compiled: bool
) -> tuple[dict[str, nn.Module], dict[str, nn.Module]]:
    """Both as they come, the peer in channels_last too, and both compiled if asked for."""
    mine, theirs = {"ldm": ours}, {"diffusers": peer}
    theirs["diffusers, channels_last"] = copies(peer).to(memory_format=torch.channels_last)
    if compiled:
        mine["ldm, compiled"] = copies(ours)
        compile_networks(mine["ldm, compiled"])
        theirs["diffusers, compiled"] = copies(theirs["diffusers, channels_last"])
        theirs["diffusers, compiled"].compile()
    return mine, theirs


def check_same(one: Tensor, other: Tensor) -> None:
    """Refuse to compare what does not compute the same.

    Raises:
        RuntimeError: largest difference above 1e-3 of the largest value.
    """
    gap = (one.float() - other.float()).abs().max() / other.float().abs().max()
    if not gap < 1e-3:
        raise RuntimeError(f"the two do not compute the same: they differ by {gap:.1e}")
