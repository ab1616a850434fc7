"""How conditions reach the denoiser in the original code, as a list of native conditioners."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ldm.compat.compvis_encoders import CONCATENATED, ENCODERS, ENTRY_NAMES, FROZEN, classes
from ldm.compat.rules import node, split
from ldm.errors import ConfigError

UNTRANSLATED = "compvis:"
"""Marks a name that means nothing, or something else, outside ``cond_stage_config``."""
UNCONDITIONAL = "__is_unconditional__"
FIRST_STAGE = "__is_first_stage__"
IDENTITY = "torch.nn.Identity"
ROUTES = ("concat", "crossattn", "hybrid", "adm")
HYBRID = "the second condition of a hybrid model"
"""The original reads it from a dict that only scripts make."""


def conditioners(values: Mapping[str, Any], denoiser: Any, path: str) -> list[dict[str, Any]]:
    """The conditioners of a ``LatentDiffusion``; one without counterpart is left as it is.

    Args:
        values: its arguments, by ``compvis_diffusion.LATENT_DIFFUSION``.
        denoiser: node of the native denoiser.
        path: where the arguments stand.

    Raises:
        ConfigError: the condition cannot reach the denoiser in the way that the file says.
    """
    foreign = values["cond_stage_config"]
    if foreign == UNCONDITIONAL:
        return []
    route = values["conditioning_key"] or ("concat" if values["concat_mode"] else "crossattn")
    if route not in ROUTES:
        names = ", ".join(ROUTES)
        raise ConfigError(f"{path}.conditioning_key: {route!r} is none of {names}")
    sizes = (denoiser.get("params") or {}) if isinstance(denoiser, Mapping) else {}
    path, key = f"{path}.cond_stage_config", values["cond_stage_key"]
    if foreign == FIRST_STAGE and route == "concat":
        return _inpainting(sizes, ENTRY_NAMES.get(key, key), path)
    if isinstance(foreign, str):
        return [node(UNTRANSLATED + foreign, key=key, route=route)]
    name, params = split(foreign, path)
    if name == IDENTITY:
        return [_identity(sizes, ENTRY_NAMES.get(key, key), route, path)]
    if name not in ENCODERS:
        return [dict(foreign)]
    result = ENCODERS[name](params, name, f"{path}.params", key)
    _check_route(name, route, path)
    if not values["cond_stage_trainable"] and name not in FROZEN:
        result = node("ldm.conditioners.frozen.frozen", conditioner=result)
    return [result, node(UNTRANSLATED + HYBRID)] if route == "hybrid" else [result]


def _identity(sizes: Mapping[str, Any], key: str, route: str, path: str) -> dict[str, Any]:
    """Conditions that the original hands on as they are."""
    if route == "concat":
        channels = _size(sizes, "in_channels", path) - _size(sizes, "out_channels", path)
        return node("ldm.conditioners.spatial.ConcatImage", channels=channels, key=key)
    if route == "crossattn":
        dim = _size(sizes, "context_dim", path)
        return node("ldm.conditioners.embeddings.Embeddings", dim=dim, key=key)
    if route == "adm":
        count = classes(_size(sizes, "num_classes", path))
        return node("ldm.conditioners.class_label.ClassLabel", **count, key=key, route="adm")
    return node(UNTRANSLATED + HYBRID)


def _inpainting(sizes: Mapping[str, Any], key: str, path: str) -> list[dict[str, Any]]:
    """The encoded image and, if the denoiser has a channel for it, the mask.

    The original joins them in a script; its models could only be sampled.
    """
    latent = _size(sizes, "out_channels", path)
    left = _size(sizes, "in_channels", path) - 2 * latent
    if left not in (0, 1):
        raise ConfigError(
            f"{path}: {FIRST_STAGE} gives {latent} channels, and a mask one more, but in_channels "
            f"of the UNet leaves {latent + left}"
        )
    image = node("ldm.conditioners.spatial.LatentImage", key=key)
    return [image, node("ldm.conditioners.spatial.ResizedMask")][: 1 + left]


def _size(sizes: Mapping[str, Any], name: str, path: str) -> int:
    size = sizes.get(name)
    if size is None:
        raise ConfigError(f"{path}: the size of the condition is not known: the UNet has no {name}")
    return int(size)


def _check_route(name: str, route: str, path: str) -> None:
    own = "concat" if name in CONCATENATED else "crossattn"
    if route not in (own, "hybrid"):
        way = "concatenation" if own == "concat" else "cross-attention"
        raise ConfigError(
            f"{path}: {name} reaches the denoiser by {way} here, not by {route!r}; "
            f"set conditioning_key: {own}"
        )
