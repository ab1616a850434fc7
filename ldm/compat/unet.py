"""What a native node says about a UNet, for the formats that it is exported to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ldm.compat.rules import Ignored, Renamed, Required, Table, apply, split
from ldm.errors import ConfigError

UNET_NAME = "ldm.denoisers.unet.UNet"
UNSET = -1

NATIVE: Table = {
    "in_channels": Required("in_channels"),
    "out_channels": Required("out_channels"),
    "model_channels": Required("model_channels"),
    "num_res_blocks": Renamed("num_res_blocks", 2),
    "attention_resolutions": Renamed("attention_resolutions", (2, 4)),
    "channel_mult": Renamed("channel_mult", (1, 2, 4)),
    "num_heads": Renamed("num_heads", UNSET),
    "num_head_channels": Renamed("num_head_channels", UNSET),
    "num_heads_upsample": Renamed("num_heads_upsample", UNSET),
    "use_spatial_transformer": Renamed("use_spatial_transformer", False),
    "transformer_depth": Renamed("transformer_depth", 1),
    "context_dim": Renamed("context_dim", None),
    "num_classes": Renamed("num_classes", None),
    "dropout": Renamed("dropout", 0.0),
    "conv_resample": Renamed("conv_resample", True),
    "use_scale_shift_norm": Renamed("use_scale_shift_norm", False),
    "resblock_updown": Renamed("resblock_updown", False),
    "use_new_attention_order": Renamed("use_new_attention_order", False),
    "legacy": Renamed("legacy", True),
    "use_checkpoint": Ignored("trades memory for time"),
    "norm_groups": Renamed("norm_groups", 32),
    "use_linear_in_transformer": Renamed("use_linear_in_transformer", False),
}


def read_unet(foreign: Any, path: str = "model") -> dict[str, Any]:
    """Every argument of a native UNet node, those at their defaults included.

    Raises:
        ConfigError: another class, or an argument that this does not know.
    """
    name, params = split(foreign, path)
    if name != UNET_NAME:
        raise ConfigError(f"{path}: a {name} cannot be exported to diffusers; only {UNET_NAME} can")
    values = apply(NATIVE, params, name, f"{path}.params")
    if values["num_heads"] == values["num_head_channels"] == UNSET:
        values["num_head_channels"] = 32
    return values


def attention_levels(values: Mapping[str, Any]) -> list[bool]:
    """Whether the blocks of each level are followed by attention, from native arguments."""
    return [2**i in values["attention_resolutions"] for i in range(len(values["channel_mult"]))]


def level_heads(values: Mapping[str, Any], path: str = "model.params") -> list[int]:
    """Number of heads at each level if it attends, from native arguments.

    Raises:
        ConfigError: the heads of an attending level differ between the halves or do not fill it.
    """
    levels, last = attention_levels(values), len(values["channel_mult"]) - 1
    width, count = values["num_head_channels"], values["num_heads"]
    upsample = values["num_heads_upsample"]
    own_count = width == UNSET and values["legacy"] and not values["use_spatial_transformer"]
    if any(levels) and own_count and upsample not in (UNSET, count):
        raise ConfigError(
            f"{path}.num_heads_upsample: {upsample} with num_heads={count}: diffusers has the same "
            "heads in both halves"
        )
    heads = []
    for i, factor in enumerate(values["channel_mult"]):
        channels = factor * values["model_channels"]
        number = count if width == UNSET else channels // width
        size = channels // number if number > 0 and width == UNSET else width
        if (levels[i] or i == last) and number * size != channels:
            raise ConfigError(
                f"{path}: diffusers has no heads that do not fill their {channels} channels, as "
                f"with num_heads={count}, num_head_channels={width}"
            )
        heads.append(max(number, 1))
    return heads
