"""``AutoencoderKL`` and ``VQModel`` of diffusers: ``config.json`` and weights, there and back.

Both are the networks of the original code under other names, so both directions are exact; what one
side can say and the other cannot is an error that names it. Names of weights differ in the parts
that ``_PAIRS`` lists, levels of the decoder are counted from the other end, and the 1x1
convolutions of the attention are linear layers there. Names that neither side knows are not refused
here: strict loading finds them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ldm.compat.compvis.weights import is_training_only
from ldm.compat.native import (
    ARCHITECTURE_NAME,
    KL_NAME,
    QUANTIZER_NAME,
    VQ_NAME,
    FirstStage,
    read_first_stage,
)
from ldm.compat.rules import Ignored, Inert, Renamed, Table, apply, node
from ldm.errors import ConfigError

WEIGHTS = "diffusion_pytorch_model.safetensors"
"""The file beside ``config.json``."""
DOWN, ATTENTION_DOWN = "DownEncoderBlock2D", "AttnDownEncoderBlock2D"
UP, ATTENTION_UP = "UpDecoderBlock2D", "AttnUpDecoderBlock2D"
_PIPELINE = Ignored("the pipelines of diffusers use it, encode and decode do not")
_MOST = 2**20
_MOST_LEVELS = 16
_MOST_LAYERS = 64

_BOTH: Table = {
    "in_channels": Renamed("in_channels", 3),
    "out_channels": Renamed("out_channels", 3),
    "down_block_types": Renamed("down", (DOWN,)),
    "up_block_types": Renamed("up", (UP,)),
    "block_out_channels": Renamed("widths", (64,)),
    "layers_per_block": Renamed("layers", 1),
    "act_fn": Inert(("silu", "swish")),
    "norm_num_groups": Renamed("groups", 32),
    "sample_size": Renamed("resolution", 32),
    "mid_block_add_attention": Renamed("mid_attention", True),
    "scaling_factor": _PIPELINE,
    "force_upcast": _PIPELINE,
}
KL_MODEL: Table = {
    **_BOTH,
    "latent_channels": Renamed("z_channels", 4),
    "shift_factor": _PIPELINE,
    "latents_mean": _PIPELINE,
    "latents_std": _PIPELINE,
    "use_quant_conv": Renamed("use_quant_conv", True),
    "use_post_quant_conv": Renamed("use_post_quant_conv", True),
}
VQ_MODEL: Table = {
    **_BOTH,
    "latent_channels": Renamed("z_channels", 3),
    "num_vq_embeddings": Renamed("num_codes", 256),
    "vq_embed_dim": Renamed("embed_dim", None),
    "norm_type": Inert(("group",)),
    "lookup_from_codebook": Ignored("for callers that decode indices; latents decode as ever"),
}
MODELS: dict[str, Table] = {"AutoencoderKL": KL_MODEL, "VQModel": VQ_MODEL}
_COUNTS = {
    "in_channels": "in_channels",
    "out_channels": "out_channels",
    "layers": "layers_per_block",
    "groups": "norm_num_groups",
    "z_channels": "latent_channels",
    "num_codes": "num_vq_embeddings",
    "embed_dim": "vq_embed_dim",
}
_FLAGS = {
    "mid_attention": "mid_block_add_attention",
    "use_quant_conv": "use_quant_conv",
    "use_post_quant_conv": "use_post_quant_conv",
}


def from_config(config: Any) -> dict[str, Any]:
    """The native node of an autoencoder of diffusers.

    Args:
        config: content of its ``config.json``.

    Raises:
        ConfigError: not the configuration of an autoencoder, or one that has no counterpart here.
    """
    name, values = _read(config)
    if name == "VQModel" and values["embed_dim"] is None:
        values["embed_dim"] = values["z_channels"]
    for key, theirs in _COUNTS.items():
        if key in values:
            most = _MOST_LAYERS if key == "layers" else _MOST
            _check_count(values[key], f"{name}.{theirs}", most)
    for key, theirs in _FLAGS.items():
        if not isinstance(values.get(key, True), bool):
            text = str(values[key])[:80]
            raise ConfigError(f"{name}.{theirs}: expected true or false, got {text}")
    architecture = _architecture(values, name)
    if name == "AutoencoderKL":
        return node(KL_NAME, architecture=architecture, embed_dim=values["z_channels"])
    dim = values["embed_dim"]
    quantizer = node(QUANTIZER_NAME, num_codes=values["num_codes"], dim=dim)
    return node(VQ_NAME, architecture=architecture, embed_dim=dim, quantizer=quantizer)


def scale_factor(config: Any) -> float:
    """By what the latents of an autoencoder of diffusers are multiplied for a diffusion model.

    Raises:
        ConfigError: it is no positive number.
    """
    value = config.get("scaling_factor", 0.18215)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 < value < math.inf:
        place, text = f"{config['_class_name']}.scaling_factor", str(value)[:80]
        raise ConfigError(f"{place}: expected a positive number, got {text}")
    return float(value)


def absent_convolutions(config: Any) -> dict[str, int]:
    """Names of the 1x1 convolutions that a model of diffusers leaves out, with their channels.

    An identity takes their place here.

    Args:
        config: content of a ``config.json`` that ``from_config`` accepts.
    """
    _, values = _read(config)
    absent = {}
    if not values.get("use_quant_conv", True):
        absent["quant_conv"] = 2 * values["z_channels"]
    if not values.get("use_post_quant_conv", True):
        absent["post_quant_conv"] = values["z_channels"]
    return absent


def to_config(foreign: Any, scaling_factor: float = 1.0, path: str = "model") -> dict[str, Any]:
    """``config.json`` of diffusers for a native node: the inverse of ``from_config``.

    Args:
        foreign: node of a KL or VQ autoencoder, without interpolations.
        scaling_factor: factor of the latents in the diffusion model that works on them.
        path: where the node stands, for messages.

    Raises:
        ConfigError: diffusers has no such autoencoder; the message names the argument.
    """
    stage = read_first_stage(foreign, path)
    a = stage.architecture
    _check_expressible(stage, f"{path}.params")
    attention = stage.attention_levels
    config = {
        "_class_name": "AutoencoderKL" if stage.num_codes is None else "VQModel",
        "act_fn": "silu",
        "block_out_channels": [a["channels"] * factor for factor in a["channel_mult"]],
        "down_block_types": [ATTENTION_DOWN if attends else DOWN for attends in attention],
        "force_upcast": stage.num_codes is None,  # as the defaults of diffusers
        "in_channels": a["in_channels"],
        "latent_channels": a["z_channels"],
        "layers_per_block": a["num_res_blocks"],
        "mid_block_add_attention": a["mid_attention"],
        "norm_num_groups": a["norm_groups"],
        "out_channels": a["out_channels"],
        "sample_size": a["resolution"],
        "scaling_factor": scaling_factor,
        "up_block_types": [ATTENTION_UP if attends else UP for attends in reversed(attention)],
    }
    if stage.num_codes is not None:
        config |= {"num_vq_embeddings": stage.num_codes, "vq_embed_dim": stage.embed_dim}
    return config


def _read(config: Any) -> tuple[str, dict[str, Any]]:
    if not isinstance(config, Mapping):
        raise ConfigError(f"expected the settings of a model, got a {type(config).__name__}")
    name = config.get("_class_name")
    if not isinstance(name, str) or name not in MODELS:
        found = "_class_name: missing" if name is None else f"_class_name: {str(name)[:80]!r}"
        raise ConfigError(
            f"{found}; only AutoencoderKL, VQModel and the 2D UNets of diffusers load"
        )
    params = {key: value for key, value in config.items() if not str(key).startswith("_")}
    return name, apply(MODELS[name], params, name, name)


def _architecture(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    widths = values["widths"]
    if not isinstance(widths, (list, tuple)) or not 1 <= len(widths) <= _MOST_LEVELS:
        text = repr(widths)[:80]
        raise ConfigError(f"{name}.block_out_channels: expected a list of widths, got {text}")
    for width in widths:
        _check_count(width, f"{name}.block_out_channels")
        if width % widths[0]:
            raise ConfigError(
                f"{name}.block_out_channels: {width} is no multiple of the first, {widths[0]}, "
                "as it must be here"
            )
    if widths[0] % values["groups"]:
        raise ConfigError(
            f"{name}.norm_num_groups: {values['groups']} does not divide the widths {widths!r}"
        )
    middle = values["mid_attention"]
    levels = _attention_levels(values, name, len(widths))
    if any(levels) and not middle:
        raise ConfigError(
            f"{name}.mid_block_add_attention: false together with {ATTENTION_DOWN} has no native "
            "counterpart"
        )
    resolution = _resolution(values["resolution"], len(widths))
    return node(
        ARCHITECTURE_NAME,
        in_channels=values["in_channels"],
        out_channels=values["out_channels"],
        channels=widths[0],
        channel_mult=[width // widths[0] for width in widths],
        num_res_blocks=values["layers"],
        attn_resolutions=[resolution // 2**i for i, attends in enumerate(levels) if attends],
        resolution=resolution,
        z_channels=values["z_channels"],
        mid_attention=middle,
        norm_groups=values["groups"],
    )


def _attention_levels(values: Mapping[str, Any], name: str, count: int) -> list[bool]:
    down = _kinds(values["down"], (DOWN, ATTENTION_DOWN), f"{name}.down_block_types", count)
    up = _kinds(values["up"], (UP, ATTENTION_UP), f"{name}.up_block_types", count)
    if down != up[::-1]:
        raise ConfigError(
            f"{name}.up_block_types: attention at other levels than in down_block_types has no "
            "native counterpart"
        )
    return down


def _kinds(types: Any, known: tuple[str, str], place: str, count: int) -> list[bool]:
    """For each block whether it attends, from its type (without and with attention)."""
    if not isinstance(types, (list, tuple)) or len(types) != count:
        raise ConfigError(f"{place}: expected a list of {count}, one for each block_out_channels")
    for kind in types:
        if kind not in known:
            raise ConfigError(
                f"{place}: {str(kind)[:80]!r} has no native counterpart, only {' and '.join(known)}"
            )
    return [kind == known[1] for kind in types]


def _resolution(sample_size: Any, levels: int) -> int:
    """A nominal side that tells the levels apart; here it only says where there is attention."""
    smallest = int(2 ** (levels - 1))
    if isinstance(sample_size, int) and smallest <= sample_size <= _MOST:
        return sample_size
    return 8 * smallest


def _check_count(value: Any, place: str, most: int = _MOST) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        text = str(value)[:80]
        raise ConfigError(f"{place}: expected a whole number from 1 to {most}, got {text}")


def _check_expressible(stage: FirstStage, path: str) -> None:
    a, place = stage.architecture, f"{path}.architecture.params"
    for key, only in (("resample_with_conv", True), ("tanh_out", False)):
        if a[key] is not only:
            raise ConfigError(f"{place}.{key}: diffusers has no autoencoder with {key}={a[key]}")
    if a["channel_mult"][0] != 1:
        raise ConfigError(
            f"{place}.channel_mult: diffusers has no autoencoder whose first level is wider than "
            f"its first convolution, as with {list(a['channel_mult'])}"
        )
    if stage.num_codes is None and stage.embed_dim != a["z_channels"]:
        raise ConfigError(
            f"{path}.embed_dim: {stage.embed_dim} with z_channels={a['z_channels']}: diffusers has "
            "one latent_channels for both"
        )


_PAIRS = (
    ("encoder.down_blocks.", "encoder.down."),
    ("decoder.up_blocks.", "decoder.up."),
    (".mid_block.resnets.0.", ".mid.block_1."),
    (".mid_block.resnets.1.", ".mid.block_2."),
    (".mid_block.attentions.0.", ".mid.attn_1."),
    (".resnets.", ".block."),
    (".attentions.", ".attn."),
    (".downsamplers.0.", ".downsample."),
    (".upsamplers.0.", ".upsample."),
    (".conv_norm_out.", ".norm_out."),
    (".conv_shortcut.", ".nin_shortcut."),
    (".group_norm.", ".norm."),
    (".to_q.", ".q."),
    (".to_k.", ".k."),
    (".to_v.", ".v."),
    (".to_out.0.", ".proj_out."),
)
_OLD = ((".query.", ".q."), (".key.", ".k."), (".value.", ".v."), (".proj_attn.", ".proj_out."))
"""Names of the attention in files of 2022."""
_THEIRS = re.compile(r"(encoder|decoder)\.(mid_block|down_blocks|up_blocks)\.")
_DECODER_LEVEL = re.compile(r"(?<=^decoder\.up\.)\d+(?=\.)")
_LINEAR = re.compile(r"\.attn(_1|\.\d+)\.(q|k|v|proj_out)\.weight$")


def is_diffusers(keys: Iterable[str]) -> bool:
    """Whether these are names of the weights of an autoencoder of diffusers."""
    return any(_THEIRS.match(key) for key in keys)


def from_diffusers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Native names and shapes for the weights of an autoencoder of diffusers."""
    names = {}
    for key in state:
        name = key
        for theirs, ours in (*_PAIRS, *_OLD):
            name = name.replace(theirs, ours)
        names[key] = name
    levels = _count_levels(names.values())
    result = {}
    for key, value in state.items():
        name = _reverse_level(names[key], levels)
        linear = value.ndim == 2 and _LINEAR.search(name)
        result[name] = value[:, :, None, None] if linear else value
    return result


def to_diffusers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of ``from_diffusers``; what only training uses is left out."""
    levels = _count_levels(state)
    result = {}
    for key, value in state.items():
        if is_training_only(key):
            continue
        name = _reverse_level(key, levels)
        for theirs, ours in _PAIRS:
            name = name.replace(ours, theirs)
        result[name] = value.flatten(1) if _LINEAR.search(key) else value
    return result


def identity_convolution(name: str, channels: int) -> dict[str, Tensor]:
    """Weights of a 1x1 convolution that changes nothing."""
    return {
        f"{name}.weight": torch.eye(channels)[:, :, None, None],
        f"{name}.bias": torch.zeros(channels),
    }


def _count_levels(names: Iterable[str]) -> int:
    levels = [int(match[0]) for name in names if (match := _DECODER_LEVEL.search(name))]
    return max(levels, default=-1) + 1


def _reverse_level(name: str, levels: int) -> str:
    """Here level 0 of the decoder has the highest resolution, in diffusers the lowest."""
    return _DECODER_LEVEL.sub(lambda match: str(levels - 1 - int(match[0])), name)
