"""What native nodes of first stages and UNets say in plain values, for the formats of export."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ldm.compat.rules import Ignored, Inert, Renamed, Required, Table, apply, node, split
from ldm.errors import ConfigError

KL_NAME = "ldm.autoencoders.AutoencoderKL"
VQ_NAME = "ldm.autoencoders.AutoencoderVQ"
ARCHITECTURE_NAME = "ldm.autoencoders.Architecture"
QUANTIZER_NAME = "ldm.autoencoders.VectorQuantizer"
_TRAINING = Ignored("acts in training only")

KL: Table = {
    "architecture": Required("architecture"),
    "embed_dim": Required("embed_dim"),
    "initial_logvar": _TRAINING,
}
VQ: Table = {
    "architecture": Required("architecture"),
    "embed_dim": Required("embed_dim"),
    "quantizer": Required("quantizer"),
}
QUANTIZER: Table = {
    "num_codes": Required("num_codes"),
    "dim": Required("dim"),
    "beta": _TRAINING,
    "legacy_beta": _TRAINING,
    "ema_decay": _TRAINING,
    "restart_after": _TRAINING,
}
ARCHITECTURE: Table = {
    "in_channels": Renamed("in_channels", 3),
    "out_channels": Renamed("out_channels", None),
    "channels": Renamed("channels", 128),
    "channel_mult": Renamed("channel_mult", (1, 2, 4, 4)),
    "num_res_blocks": Renamed("num_res_blocks", 2),
    "attn_resolutions": Renamed("attn_resolutions", ()),
    "resolution": Renamed("resolution", 256),
    "z_channels": Renamed("z_channels", 4),
    "dropout": Renamed("dropout", 0.0),
    "mid_attention": Renamed("mid_attention", True),
    "resample_with_conv": Renamed("resample_with_conv", True),
    "tanh_out": Renamed("tanh_out", False),
    "norm_groups": Renamed("norm_groups", 32),
}


@dataclass(frozen=True)
class FirstStage:
    """A KL- or VQ-regularised autoencoder in plain values.

    Attributes:
        embed_dim: channels of the latent.
        num_codes: size of the codebook; None: KL.
        architecture: every argument of ``Architecture``, those at their defaults included.
    """

    embed_dim: int
    num_codes: int | None
    architecture: Mapping[str, Any]

    @property
    def attention_levels(self) -> list[bool]:
        """Whether the blocks of each level are followed by attention."""
        a = self.architecture
        sides = [a["resolution"] // 2**level for level in range(len(a["channel_mult"]))]
        return [bool(a["mid_attention"]) and side in a["attn_resolutions"] for side in sides]


def read_first_stage(foreign: Any, path: str = "model") -> FirstStage:
    """A native node ``{target, params}`` of a KL or VQ autoencoder, without interpolations.

    Raises:
        ConfigError: another class, or an argument that this does not know.
    """
    name, params = split(foreign, path)
    if name not in (KL_NAME, VQ_NAME):
        raise ConfigError(f"{path}: a {name} cannot be exported; only {KL_NAME} and {VQ_NAME} can")
    values = apply(VQ if name == VQ_NAME else KL, params, name, f"{path}.params")
    place = f"{path}.params.architecture"
    sizes = _arguments(values["architecture"], ARCHITECTURE_NAME, ARCHITECTURE, place)
    if sizes["out_channels"] is None:
        sizes["out_channels"] = sizes["in_channels"]
    for key in ("channel_mult", "attn_resolutions"):
        sizes[key] = tuple(sizes[key])
    if name == KL_NAME:
        return FirstStage(values["embed_dim"], None, sizes)
    place = f"{path}.params.quantizer"
    codebook = _arguments(values["quantizer"], QUANTIZER_NAME, QUANTIZER, place)
    return FirstStage(values["embed_dim"], codebook["num_codes"], sizes)


def _arguments(foreign: Any, expected: str, table: Table, path: str) -> dict[str, Any]:
    name, params = split(foreign, path)
    if name != expected:
        raise ConfigError(f"{path}: a {name} cannot be exported; only {expected} can")
    return apply(table, params, name, f"{path}.params")


UNET_NAME = "ldm.denoisers.UNet"
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


MASK_NAME, MASKED_IMAGE_NAME = "ldm.conditioners.ResizedMask", "ldm.conditioners.LatentImage"
MASK: Table = {
    "key": Renamed("key", "mask"),
    "drop_prob": Inert((0, 0.0)),
    "low": Renamed("low", -1.0),
}
MASKED_IMAGE: Table = {
    "key": Renamed("key", "masked_image"),
    "drop_prob": Inert((0, 0.0)),
    "scale": Renamed("scale", 1.0),
    "hidden": Renamed("hidden", -1.0),
}


def masked_inputs(scale: float) -> list[dict[str, Any]]:
    """Conditioners of Stable Diffusion's inpainting model besides its text encoder.

    The mask in {0, 1} comes before the image, whose hole is mid-grey and whose latents have the
    scale factor of the model.

    Args:
        scale: that factor.
    """
    return [node(MASK_NAME, low=0.0), node(MASKED_IMAGE_NAME, scale=scale, hidden=0.0)]


def are_masked_inputs(conditioners: Sequence[Any], scale: float, path: str) -> bool:
    """Whether these nodes mean the same as ``masked_inputs``.

    Args:
        conditioners: native nodes.
        scale: the scale factor of the model.
        path: where they stand, for messages.
    """
    parts = [split(conditioner, path) for conditioner in conditioners]
    if [name for name, _ in parts] != [MASK_NAME, MASKED_IMAGE_NAME]:
        return False
    mask, image = (
        apply(table, params, name, path)
        for table, (name, params) in zip((MASK, MASKED_IMAGE), parts, strict=True)
    )
    known = mask == {"key": "mask", "low": 0} and image["key"] == "masked_image"
    return known and image["hidden"] == 0 and math.isclose(image["scale"], scale, rel_tol=1e-6)
