"""Weights of the UNets of diffusers under the names of this library, and back.

The networks are the same. diffusers groups blocks by level and kind where the original code
numbers them through, and has separate layers for queries, keys and values where plain attention
has one, in which they lie head by head or one after the other (``use_new_attention_order``).
Names that neither side knows are not refused here: strict loading finds them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ldm.compat.native import attention_levels, level_heads

_OUTSIDE = (
    ("time_embed.0", "time_embedding.linear_1"),
    ("time_embed.2", "time_embedding.linear_2"),
    ("label_emb", "class_embedding"),
    ("input_blocks.0.0", "conv_in"),
    ("out.0", "conv_norm_out"),
    ("out.2", "conv_out"),
)
_RESIDUAL = (
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
)
_OLD = (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0"))
"""Names of plain attention in files of 2022."""
_PARTS = ("to_q", "to_k", "to_v")


def is_diffusers_unet(keys: Iterable[str]) -> bool:
    """Whether these are names of the weights of a UNet of diffusers."""
    return any(key.startswith(("time_embedding.linear_1.", "mid_block.resnets.")) for key in keys)


def unet_to_diffusers(state: Mapping[str, Tensor], values: Mapping[str, Any]) -> dict[str, Tensor]:
    """Names and shapes of diffusers for the weights of a UNet.

    Args:
        state: native state dict.
        values: the arguments of the UNet, as ``read_unet`` gives them.
    """
    names = dict(_names(values))
    fused = _fused(values)
    result = {}
    for key, value in state.items():
        layer, _, kind = key.rpartition(".")
        block, _, name = layer.rpartition(".")
        if block in fused and name == "qkv":
            theirs, heads = fused[block]
            for part, piece in zip(_PARTS, _split(value, heads, values), strict=True):
                result[f"{theirs}.{part}.{kind}"] = piece
        elif block in fused and name == "proj_out":
            result[f"{fused[block][0]}.to_out.0.{kind}"] = _without_position(value)
        else:
            result[_renamed(key, names)] = value
    return result


def unet_from_diffusers(
    state: Mapping[str, Tensor], values: Mapping[str, Any]
) -> dict[str, Tensor]:
    """The inverse of ``unet_to_diffusers``, in the attention order that ``values`` say."""
    names = {theirs: ours for ours, theirs in _names(values)}
    rest = dict(state)
    result = {}
    for ours, (theirs, heads) in _fused(values).items():
        for old, new in _OLD:
            for kind in ("weight", "bias"):
                if f"{theirs}.{old}.{kind}" in rest:
                    rest[f"{theirs}.{new}.{kind}"] = rest.pop(f"{theirs}.{old}.{kind}")
        for kind in ("weight", "bias"):
            parts = [f"{theirs}.{part}.{kind}" for part in _PARTS]
            if all(part in rest for part in parts):
                pieces = [rest.pop(part) for part in parts]
                result[f"{ours}.qkv.{kind}"] = _join(pieces, heads, values)
            if f"{theirs}.to_out.0.{kind}" in rest:
                value = rest.pop(f"{theirs}.to_out.0.{kind}")
                result[f"{ours}.proj_out.{kind}"] = _with_position(value)
    return result | {_renamed(key, names): value for key, value in rest.items()}


def _names(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(native, diffusers) names of all layers that are renamed, by their common beginnings."""
    yield from _OUTSIDE
    for kind, ours, theirs, _ in _blocks(values):
        if kind == "residual":
            yield from ((f"{ours}.{mine}", f"{theirs}.{other}") for mine, other in _RESIDUAL)
        elif kind == "down":
            yield f"{ours}.op", f"{theirs}.conv"
        elif kind == "attention" and not values["use_spatial_transformer"]:
            yield f"{ours}.norm", f"{theirs}.group_norm"
        else:
            yield ours, theirs


def _fused(values: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    """Name in diffusers and number of heads of every plain attention, by its native name."""
    if values["use_spatial_transformer"]:
        return {}
    heads = level_heads(values)
    return {
        ours: (theirs, heads[level])
        for kind, ours, theirs, level in _blocks(values)
        if kind == "attention"
    }


def _blocks(values: Mapping[str, Any]) -> Iterator[tuple[str, str, str, int]]:
    """(kind, native name, name in diffusers, level) of all blocks, in the order of the UNet."""
    attends = attention_levels(values)
    depth, count = len(attends), values["num_res_blocks"]
    down, up = ("residual", "residual") if values["resblock_updown"] else ("down", "up")
    index = 1
    for level in range(depth):
        theirs = f"down_blocks.{level}"
        for i in range(count):
            yield "residual", f"input_blocks.{index}.0", f"{theirs}.resnets.{i}", level
            if attends[level]:
                yield "attention", f"input_blocks.{index}.1", f"{theirs}.attentions.{i}", level
            index += 1
        if level < depth - 1:
            yield down, f"input_blocks.{index}.0", f"{theirs}.downsamplers.0", level
            index += 1
    yield "residual", "middle_block.0", "mid_block.resnets.0", depth - 1
    yield "attention", "middle_block.1", "mid_block.attentions.0", depth - 1
    yield "residual", "middle_block.2", "mid_block.resnets.1", depth - 1
    index = 0
    for level in reversed(range(depth)):
        theirs = f"up_blocks.{depth - 1 - level}"
        for i in range(count + 1):
            ours = f"output_blocks.{index}"
            yield "residual", f"{ours}.0", f"{theirs}.resnets.{i}", level
            if attends[level]:
                yield "attention", f"{ours}.1", f"{theirs}.attentions.{i}", level
            if level > 0 and i == count:
                yield up, f"{ours}.{1 + attends[level]}", f"{theirs}.upsamplers.0", level
            index += 1


def _renamed(key: str, names: Mapping[str, str]) -> str:
    """``key`` with its longest beginning that has another name under that name."""
    parts = key.split(".")
    for end in range(len(parts), 0, -1):
        start = ".".join(parts[:end])
        if start in names:
            return ".".join([names[start], *parts[end:]])
    return key


def _split(value: Tensor, heads: int, values: Mapping[str, Any]) -> list[Tensor]:
    """Queries, keys and values (C, C) or (C,) of a fused projection (3C, C, 1) or (3C,)."""
    value = _without_position(value)
    if values["use_new_attention_order"]:
        return [piece.clone() for piece in value.chunk(3)]
    by_head = value.unflatten(0, (heads, 3, -1))
    return [by_head[:, i].flatten(0, 1) for i in range(3)]


def _join(pieces: list[Tensor], heads: int, values: Mapping[str, Any]) -> Tensor:
    """The inverse of ``_split``."""
    if values["use_new_attention_order"] or any(len(piece) % heads for piece in pieces):
        return _with_position(torch.cat(pieces))
    by_head = torch.stack([piece.unflatten(0, (heads, -1)) for piece in pieces], dim=1)
    return _with_position(by_head.flatten(0, 2))


def _with_position(value: Tensor) -> Tensor:
    return value[:, :, None] if value.ndim == 2 else value


def _without_position(value: Tensor) -> Tensor:
    return value[:, :, 0] if value.ndim == 3 else value
