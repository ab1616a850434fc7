"""Conditions of the original code and of Stable Diffusion, as a list of native conditioners.

Encoders are translated one by one; how their outputs reach the denoiser (``conditioning_key``, the
tasks' own classes of ``LatentDiffusion``) decides about routes and batch entries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ldm.compat.rules import Ignored, Inert, Renamed, Required, Table, apply, node, split
from ldm.errors import ConfigError

ENTRY_NAMES = {
    "class": "class_label",
    "cls": "class_label",
    "caption": "tokens",
    "txt": "tokens",
    "coordinates_bbox": "box_tokens",
    "objects_bbox": "box_tokens",
    "LR_image": "lr_image",
    "nix": "neighbours",
}
"""Entries of the original batches that have another name here."""

CLIP_TOKENIZER = "ldm.conditioners.ClipTokenizer"
_DEVICE = Ignored("modules here live where they are moved to")

CLASS: Table = {
    "embed_dim": Required("dim"),
    "n_classes": Renamed("num_classes", 1000),
    "key": Renamed("key", "class"),
}

TRANSFORMER: Table = {
    "n_embed": Required("dim"),
    "n_layer": Required("depth"),
    "vocab_size": Required("vocab_size"),
    "max_seq_len": Renamed("length", 77),
    "device": _DEVICE,
}

BERT: Table = {
    **TRANSFORMER,
    "vocab_size": Renamed("vocab_size", 30522),
    "use_tokenizer": Renamed("use_tokenizer", True),
    "embedding_dropout": Inert((0, 0.0)),
}

SPATIAL: Table = {
    "n_stages": Renamed("stages", 1),
    "method": Renamed("method", "bilinear"),
    "multiplier": Renamed("multiplier", 0.5),
    "in_channels": Renamed("in_channels", 3),
    "out_channels": Renamed("out_channels", None),
    "bias": Renamed("bias", False),
}

_FROZEN_TEXT: Table = {
    "device": _DEVICE,
    "max_length": Renamed("length", 77),
    "freeze": Inert((True,)),
}

CLIP: Table = {
    **_FROZEN_TEXT,
    "version": Renamed("path", "openai/clip-vit-large-patch14"),
    "layer": Inert(("last",)),
    "layer_idx": Inert((None,)),
}

OPEN_CLIP: Table = {
    **_FROZEN_TEXT,
    "arch": Renamed("arch", "ViT-H-14"),
    "version": Renamed("pretrained", "laion2b_s32b_b79k"),
    "layer": Renamed("layer", "last"),
}

POOLED_CLIP: Table = {
    **_FROZEN_TEXT,
    "version": Renamed("arch", "ViT-L/14"),
    "n_repeat": Inert((1,)),
    "normalize": Inert((True,)),
}

IMAGENET_WITH_EMPTY_CLASS = 1001


def class_embedder(params: Any, name: str, path: str, key: str | None = None) -> dict[str, Any]:
    """``ClassEmbedder``; the 1001st class of ImageNet models stands for no class."""
    values = apply(CLASS, params, name, path)
    key = values["key"]  # the original hands over the whole batch, from which this entry is read
    sizes = classes(values["num_classes"])
    target = "ldm.conditioners.ClassLabel"
    return node(target, **sizes, dim=values["dim"], key=ENTRY_NAMES.get(key, key))


def bert_embedder(params: Any, name: str, path: str, key: str | None = None) -> dict[str, Any]:
    """``BERTEmbedder``: the text transformer with (or without) the BERT tokenizer.

    The original tokenises inside the network; here loaders do, so the batch entry is ``tokens``
    whatever the original called the texts.
    """
    values = apply(BERT, params, name, path)
    tokenizer = None
    if values.pop("use_tokenizer"):
        tokenizer = node(
            "ldm.conditioners.BertTokenizer",
            vocab="bert-base-uncased",
            length=values["length"],
        )
    return _transformer(values, "tokens" if tokenizer else key or "tokens", tokenizer)


def transformer_embedder(
    params: Any, name: str, path: str, key: str | None = None
) -> dict[str, Any]:
    """``TransformerEmbedder``: the text transformer on token ids."""
    return _transformer(apply(TRANSFORMER, params, name, path), key or "tokens", None)


def spatial_rescaler(params: Any, name: str, path: str, key: str | None = None) -> dict[str, Any]:
    """``SpatialRescaler``."""
    values = apply(SPATIAL, params, name, path)
    key = key or "segmentation"
    target = "ldm.conditioners.SpatialRescaler"
    return node(target, **values, key=ENTRY_NAMES.get(key, key))


def clip_embedder(params: Any, name: str, path: str, key: str | None = None) -> dict[str, Any]:
    """``FrozenCLIPEmbedder`` of Stable Diffusion 1: CLIP's text transformer, from transformers."""
    values = apply(CLIP, params, name, path)
    tokenizer = node(CLIP_TOKENIZER, length=values["length"])
    return node("ldm.conditioners.CLIPText", **values, tokenizer=tokenizer)


def open_clip_embedder(params: Any, name: str, path: str, key: str | None = None) -> dict[str, Any]:
    """``FrozenOpenCLIPEmbedder`` of Stable Diffusion 2."""
    return _open_clip(apply(OPEN_CLIP, params, name, path))


def pooled_clip_embedder(
    params: Any, name: str, path: str, key: str | None = None
) -> dict[str, Any]:
    """``FrozenCLIPTextEmbedder``: the normalised embedding that CLIP compares with images."""
    values = apply(POOLED_CLIP, params, name, path)
    values["arch"] = values["arch"].replace("/", "-")
    return _open_clip({**values, "pretrained": "openai", "layer": "pooled"})


def classes(count: int) -> dict[str, Any]:
    """Sizes of a class conditioner for ``count`` ids of the original."""
    if count == IMAGENET_WITH_EMPTY_CLASS:
        return {"num_classes": count - 1, "null_index": count - 1}
    return {"num_classes": count}


def _open_clip(values: dict[str, Any]) -> dict[str, Any]:
    tokenizer = node(CLIP_TOKENIZER, length=values["length"], pad="zero")
    return node("ldm.conditioners.OpenCLIPText", **values, tokenizer=tokenizer)


def _transformer(
    values: dict[str, Any], key: str, tokenizer: dict[str, Any] | None
) -> dict[str, Any]:
    key = ENTRY_NAMES.get(key, key)
    if key == "box_tokens" and tokenizer is None:
        return node("ldm.conditioners.LayoutTransformer", **values, key=key)
    target = "ldm.conditioners.TextTransformer"
    return node(target, **values, tokenizer=tokenizer, key=key)


_MODULES = "ldm.modules.encoders.modules."
ENCODERS: dict[str, Callable[..., dict[str, Any]]] = {
    f"{_MODULES}ClassEmbedder": class_embedder,
    f"{_MODULES}BERTEmbedder": bert_embedder,
    f"{_MODULES}TransformerEmbedder": transformer_embedder,
    f"{_MODULES}SpatialRescaler": spatial_rescaler,
    f"{_MODULES}FrozenCLIPEmbedder": clip_embedder,
    f"{_MODULES}FrozenOpenCLIPEmbedder": open_clip_embedder,
    f"{_MODULES}FrozenCLIPTextEmbedder": pooled_clip_embedder,
}
FROZEN = tuple(name for name in ENCODERS if ".Frozen" in name)
"""Those that never learn, whatever a file says."""
CONCATENATED = (f"{_MODULES}SpatialRescaler",)
"""Those whose output is a map; all others give a sequence."""


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
        result = node("ldm.conditioners.frozen", conditioner=result)
    return [result, node(UNTRANSLATED + HYBRID)] if route == "hybrid" else [result]


def _identity(sizes: Mapping[str, Any], key: str, route: str, path: str) -> dict[str, Any]:
    """Conditions that the original hands on as they are."""
    if route == "concat":
        channels = _size(sizes, "in_channels", path) - _size(sizes, "out_channels", path)
        return node("ldm.conditioners.ConcatImage", channels=channels, key=key)
    if route == "crossattn":
        dim = _size(sizes, "context_dim", path)
        return node("ldm.conditioners.Embeddings", dim=dim, key=key)
    if route == "adm":
        count = classes(_size(sizes, "num_classes", path))
        return node("ldm.conditioners.ClassLabel", **count, key=key, route="adm")
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
    image = node("ldm.conditioners.LatentImage", key=key)
    return [image, node("ldm.conditioners.ResizedMask")][: 1 + left]


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
