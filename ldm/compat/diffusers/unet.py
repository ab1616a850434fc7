"""``config.json`` of the UNets of diffusers, and native nodes, there and back.

``UNet2DConditionModel`` is a UNet with spatial transformers, ``UNet2DModel`` one with plain
attention. A strict table says of every argument what becomes of it; both directions are exact, and
what one side can say and the other cannot is an error that names it. The weights are translated in
``ldm.compat.diffusers.unet_weights``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ldm.compat.native import UNET_NAME, attention_levels, level_heads, read_unet
from ldm.compat.rules import Ignored, Inert, Renamed, Same, Table, apply, node
from ldm.errors import ConfigError

CONDITIONAL, PLAIN = "UNet2DConditionModel", "UNet2DModel"
_SIZE = Ignored("the size of what is sampled, not of the network")

_BOTH: Table = {
    "sample_size": _SIZE,
    "in_channels": Renamed("in_channels", 4),
    "out_channels": Renamed("out_channels", 4),
    "center_input_sample": Inert((False,)),
    "flip_sin_to_cos": Inert((True,)),
    "freq_shift": Inert((0,)),
    "block_out_channels": Renamed("widths", (320, 640, 1280, 1280)),
    "layers_per_block": Renamed("layers", 2),
    "downsample_padding": Inert((1,)),
    "mid_block_scale_factor": Inert((1, 1.0)),
    "dropout": Same(),
    "act_fn": Inert(("silu", "swish")),
    "norm_num_groups": Renamed("norm_groups", 32),
    "norm_eps": Inert((1e-5,)),
    "attention_head_dim": Renamed("heads", 8),
    "resnet_time_scale_shift": Renamed("scale_shift", "default"),
    "time_embedding_type": Inert(("positional",)),
    "time_embedding_dim": Renamed("time_embedding_dim", None),
    "class_embed_type": Inert((None,)),
    "num_class_embeds": Renamed("num_classes", None),
}
CONDITIONAL_MODEL: Table = {
    **_BOTH,
    "down_block_types": Renamed("down", ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)),
    "mid_block_type": Inert(("UNetMidBlock2DCrossAttn",)),
    "up_block_types": Renamed("up", ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3),
    "only_cross_attention": Inert((False,)),
    "cross_attention_dim": Renamed("context_dim", 1280),
    "transformer_layers_per_block": Renamed("depth", 1),
    "reverse_transformer_layers_per_block": Inert((None,)),
    "encoder_hid_dim": Inert((None,)),
    "encoder_hid_dim_type": Inert((None,)),
    "num_attention_heads": Inert((None,)),
    "dual_cross_attention": Inert((False,)),
    "use_linear_projection": Renamed("linear", False),
    "addition_embed_type": Inert((None,)),
    "addition_time_embed_dim": Inert((None,)),
    "addition_embed_type_num_heads": Ignored("means nothing without addition_embed_type"),
    "upcast_attention": Ignored("the precision of a product in half precision"),
    "resnet_skip_time_act": Inert((False,)),
    "resnet_out_scale_factor": Inert((1, 1.0)),
    "time_embedding_act_fn": Inert((None,)),
    "timestep_post_act": Inert((None,)),
    "time_cond_proj_dim": Inert((None,)),
    "conv_in_kernel": Inert((3,)),
    "conv_out_kernel": Inert((3,)),
    "projection_class_embeddings_input_dim": Inert((None,)),
    "attention_type": Inert(("default",)),
    "class_embeddings_concat": Inert((False,)),
    "mid_block_only_cross_attention": Inert((None, False)),
    "cross_attention_norm": Inert((None,)),
}
PLAIN_MODEL: Table = {
    **_BOTH,
    "in_channels": Renamed("in_channels", 3),
    "out_channels": Renamed("out_channels", 3),
    "block_out_channels": Renamed("widths", (224, 448, 672, 896)),
    "down_block_types": Renamed("down", ("DownBlock2D",) + ("AttnDownBlock2D",) * 3),
    "mid_block_type": Inert(("UNetMidBlock2D",)),
    "up_block_types": Renamed("up", ("AttnUpBlock2D",) * 3 + ("UpBlock2D",)),
    "downsample_type": Renamed("downsample", "conv"),
    "upsample_type": Renamed("upsample", "conv"),
    "attn_norm_num_groups": Renamed("attention_groups", None),
    "add_attention": Inert((True,)),
    "num_train_timesteps": Ignored("belongs to learned time embeddings, which do not load"),
}
MODELS: dict[str, Table] = {CONDITIONAL: CONDITIONAL_MODEL, PLAIN: PLAIN_MODEL}


_MOST = 2**20
_MOST_LEVELS = 16


def unet_from_config(config: Any) -> dict[str, Any]:
    """The native node of a UNet of diffusers.

    Args:
        config: content of its ``config.json``.

    Raises:
        ConfigError: not the configuration of a UNet, or one that has no counterpart here.
    """
    if not isinstance(config, Mapping):
        raise ConfigError(f"expected the settings of a model, got a {type(config).__name__}")
    name = config.get("_class_name")
    if not isinstance(name, str) or name not in MODELS:
        raise ConfigError(f"_class_name: {str(name)[:80]!r}; only {' and '.join(MODELS)} load")
    params = {key: value for key, value in config.items() if not str(key).startswith("_")}
    values = apply(MODELS[name], params, name, name)
    widths = values["widths"] = _widths(values["widths"], name)
    kinds = _levels(values, name)
    for key, label in (("in_channels",) * 2, ("out_channels",) * 2, ("norm_groups",) * 2):
        _check_count(values[key], f"{name}.{label}")
    if values["time_embedding_dim"] not in (None, 4 * widths[0]):
        raise ConfigError(
            f"{name}.time_embedding_dim: {values['time_embedding_dim']} has no native counterpart, "
            f"only {4 * widths[0]} has, four times the first width"
        )
    if values["scale_shift"] not in ("default", "scale_shift"):
        raise ConfigError(
            f"{name}.resnet_time_scale_shift: {values['scale_shift']!r} has no native counterpart"
        )
    result = {
        "in_channels": values["in_channels"],
        "out_channels": values["out_channels"],
        "model_channels": widths[0],
        "num_res_blocks": _same(values["layers"], f"{name}.layers_per_block"),
        "attention_resolutions": [2**i for i, kind in enumerate(kinds) if kind[1]],
        "channel_mult": [width // widths[0] for width in widths],
        "num_classes": values["num_classes"],
        "dropout": values.get("dropout", 0.0),
        "use_scale_shift_norm": values["scale_shift"] == "scale_shift",
        "norm_groups": values["norm_groups"],
    }
    special = _transformers if name == CONDITIONAL else _plain
    return node(UNET_NAME, **result, **special(values, kinds, name))


def unet_to_config(foreign: Any, path: str = "model") -> dict[str, Any]:
    """``config.json`` of diffusers for a native node: the inverse of ``unet_from_config``.

    Args:
        foreign: node of a UNet, without interpolations.
        path: where the node stands, for messages.

    Raises:
        ConfigError: diffusers has no such UNet; the message names the argument.
    """
    values = read_unet(foreign, path)
    _check_expressible(values, f"{path}.params")
    attends = attention_levels(values)
    heads = level_heads(values, f"{path}.params")
    conditional = values["use_spatial_transformer"]
    resnet = values["resblock_updown"]
    attention = "CrossAttn" if conditional else "Attn"
    plain = ("ResnetDownsample", "ResnetUpsample") if resnet else ("Down", "Up")
    config = {
        "_class_name": CONDITIONAL if conditional else PLAIN,
        "act_fn": "silu",
        "block_out_channels": [values["model_channels"] * n for n in values["channel_mult"]],
        "down_block_types": [f"{attention}Down" if on else plain[0] for on in attends],
        "up_block_types": [f"{attention}Up" if on else plain[1] for on in reversed(attends)],
        "dropout": values["dropout"],
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": values["in_channels"],
        "layers_per_block": values["num_res_blocks"],
        "norm_eps": 1e-5,
        "norm_num_groups": values["norm_groups"],
        "num_class_embeds": values["num_classes"],
        "out_channels": values["out_channels"],
        "resnet_time_scale_shift": "scale_shift" if values["use_scale_shift_norm"] else "default",
    }
    for key in ("down_block_types", "up_block_types"):
        config[key] = [f"{kind}Block2D" for kind in config[key]]
    if conditional:
        return config | {
            "attention_head_dim": heads[0] if len(set(heads)) == 1 else heads,
            "cross_attention_dim": values["context_dim"],
            "transformer_layers_per_block": values["transformer_depth"],
            "use_linear_projection": values["use_linear_in_transformer"],
        }
    return config | {
        "attention_head_dim": _head_size(values, heads, f"{path}.params"),
        "attn_norm_num_groups": values["norm_groups"],
        "downsample_type": "resnet" if resnet else "conv",
        "upsample_type": "resnet" if resnet else "conv",
    }


def _check_expressible(values: Mapping[str, Any], path: str) -> None:
    if not values["conv_resample"] and not values["resblock_updown"]:
        raise ConfigError(f"{path}.conv_resample: diffusers has no UNet with conv_resample=False")
    if values["use_spatial_transformer"] and values["context_dim"] is None:
        raise ConfigError(
            f"{path}.context_dim: diffusers has no UNet with spatial transformers without context"
        )
    attends, deep = any(attention_levels(values)), len(values["channel_mult"]) > 1
    if values["resblock_updown"] and values["use_spatial_transformer"] and attends and deep:
        raise ConfigError(
            f"{path}.resblock_updown: diffusers has no UNet with residual blocks that go up and "
            "down beside spatial transformers"
        )


def _head_size(values: Mapping[str, Any], heads: list[int], path: str) -> int:
    """The width of the heads, which UNet2DModel has once for all levels."""
    attends, last = attention_levels(values), len(heads) - 1
    widths = [values["model_channels"] * factor for factor in values["channel_mult"]]
    sizes = {widths[i] // heads[i] for i in range(len(heads)) if attends[i] or i == last}
    if len(sizes) > 1:
        raise ConfigError(
            f"{path}.num_heads: {values['num_heads']} heads, of another width at every level; "
            "diffusers has UNets without spatial transformers only with heads of one width"
        )
    return sizes.pop()


def _transformers(
    values: dict[str, Any], kinds: list[tuple[bool, bool]], name: str
) -> dict[str, Any]:
    resnet = _resnet_resampling(kinds, None, name)
    heads = values["heads"]
    widths = values["widths"]
    levels = [i for i, kind in enumerate(kinds) if kind[1] or i == len(kinds) - 1]
    heads = list(heads) if isinstance(heads, Sequence) else [heads] * len(kinds)
    if len(heads) != len(kinds) or any(
        not isinstance(n, int) or n < 1 or width % n for n, width in zip(heads, widths, strict=True)
    ):
        text = str(values["heads"])[:80]
        raise ConfigError(f"{name}.attention_head_dim: {text} heads do not divide {widths}")
    numbers = {heads[i] for i in levels}
    sizes = {widths[i] // heads[i] for i in levels}
    if len(numbers) > 1 and len(sizes) > 1:
        raise ConfigError(
            f"{name}.attention_head_dim: {heads} has no native counterpart: neither the number nor "
            "the width of the heads is the same at all levels"
        )
    many = {"num_heads": numbers.pop()} if len(numbers) == 1 else {"num_head_channels": sizes.pop()}
    return {
        **many,
        "use_spatial_transformer": True,
        "transformer_depth": _same(values["depth"], f"{name}.transformer_layers_per_block"),
        "context_dim": _same(values["context_dim"], f"{name}.cross_attention_dim"),
        "use_linear_in_transformer": bool(values["linear"]),
        "resblock_updown": resnet,
    }


def _plain(values: dict[str, Any], kinds: list[tuple[bool, bool]], name: str) -> dict[str, Any]:
    types = (values["downsample"], values["upsample"])
    if types not in (("conv", "conv"), ("resnet", "resnet")):
        raise ConfigError(f"{name}.downsample_type, upsample_type: {types} has no counterpart here")
    groups = values["attention_groups"]
    has_norm = groups == values["norm_groups"] or (
        groups is None and values["scale_shift"] == "default"
    )
    if not has_norm:
        raise ConfigError(
            f"{name}.attn_norm_num_groups: {groups} has no native counterpart: the middle block "
            f"attends to features normalised in norm_num_groups={values['norm_groups']} groups here"
        )
    heads, size = {}, values["heads"]
    if size is None:
        heads["num_heads"] = 1
    else:
        _check_count(size, f"{name}.attention_head_dim")
        heads["num_head_channels"] = size
        for i, (width, kind) in enumerate(zip(values["widths"], kinds, strict=True)):
            if width % size and (kind[1] or i == len(kinds) - 1):
                raise ConfigError(f"{name}.attention_head_dim: {size} does not divide {width}")
    return {**heads, "resblock_updown": _resnet_resampling(kinds, types[0] == "resnet", name)}


def _resnet_resampling(
    kinds: list[tuple[bool, bool]], attention_too: bool | None, name: str
) -> bool:
    """Whether residual blocks go up and down, which must be so at all levels or at none.

    Args:
        kinds: for each level, whether it says so by its type of block, and whether it attends.
        attention_too: whether those do so that attend, whose type does not say it.
        name: the class, for messages.
    """
    found = {attention_too or False if attends else resnet for resnet, attends in kinds}
    if len(kinds) > 1 and len(found) > 1:
        raise ConfigError(
            f"{name}.down_block_types: learned kernels at some levels and residual blocks at "
            "others have no native counterpart"
        )
    return len(kinds) > 1 and found.pop()


def _levels(values: Mapping[str, Any], name: str) -> list[tuple[bool, bool]]:
    """For each level (resampled by a residual block, attends), equal in both halves."""
    attention = "CrossAttn" if name == CONDITIONAL else "Attn"
    halves = []
    for half, resnet in (("Down", "ResnetDownsample"), ("Up", "ResnetUpsample")):
        known = {
            f"{half}Block2D": (False, False),
            f"{resnet}Block2D": (True, False),
            f"{attention}{half}Block2D": (False, True),
        }
        place, types = f"{name}.{half.lower()}_block_types", values[half.lower()]
        if not isinstance(types, (list, tuple)) or len(types) != len(values["widths"]):
            raise ConfigError(f"{place}: expected a list, one for each of block_out_channels")
        for kind in types:
            if kind not in known:
                raise ConfigError(
                    f"{place}: {str(kind)[:80]!r} has no native counterpart, only "
                    f"{', '.join(known)} have"
                )
        halves.append([known[kind] for kind in types])
    if halves[0] != halves[1][::-1]:
        raise ConfigError(
            f"{name}.up_block_types: other blocks than in down_block_types have no native "
            "counterpart"
        )
    return halves[0]


def _widths(widths: Any, name: str) -> list[int]:
    place = f"{name}.block_out_channels"
    if not isinstance(widths, (list, tuple)) or not 1 <= len(widths) <= _MOST_LEVELS:
        raise ConfigError(f"{place}: expected a list of widths, got {str(widths)[:80]!r}")
    for width in widths:
        _check_count(width, place)
        if width % widths[0]:
            raise ConfigError(f"{place}: {width} is no multiple of the first, {widths[0]}")
    return list(widths)


def _same(value: Any, place: str) -> int:
    """A number, or a list of one and the same number."""
    items = list(value) if isinstance(value, (list, tuple)) and value else [value]
    if any(item != items[0] for item in items):
        raise ConfigError(
            f"{place}: {str(value)[:80]} has no native counterpart, only one number for all levels"
        )
    _check_count(items[0], place)
    return int(items[0])


def _check_count(value: Any, place: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MOST:
        raise ConfigError(f"{place}: expected a whole number from 1, got {str(value)[:80]}")
