"""Weights of diffusers' ``AutoencoderKL`` and ``VQModel`` under the names of this library.

The networks are the same; the names differ in the parts that ``_PAIRS`` lists, levels of the
decoder are counted from the other end, and the 1x1 convolutions of the attention are linear layers
there. Names that neither side knows are not refused here: strict loading finds them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ldm.compat.checkpoints import is_training_only

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
