"""Conditioners (``cond_stage_config``) of the original code, as native nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ldm.compat.rules import Ignored, Inert, Renamed, Required, Table, apply, node

ENTRY_NAMES = {"class": "class_label", "cls": "class_label"}
"""Entries of the original batches that have another name here."""

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
    "device": Ignored("modules here live where they are moved to"),
}

BERT: Table = {
    **TRANSFORMER,
    "vocab_size": Renamed("vocab_size", 30522),
    "use_tokenizer": Renamed("use_tokenizer", True),
    "embedding_dropout": Inert((0, 0.0)),
}

IMAGENET_WITH_EMPTY_CLASS = 1001


def class_embedder(params: Any, name: str, path: str, key: str | None = None) -> dict[str, Any]:
    """``ClassEmbedder``; the 1001st class of ImageNet models stands for no class."""
    values = apply(CLASS, params, name, path)
    key = values["key"]  # the original hands over the whole batch, from which this entry is read
    null_index = None
    if values["num_classes"] == IMAGENET_WITH_EMPTY_CLASS:
        values["num_classes"] = null_index = IMAGENET_WITH_EMPTY_CLASS - 1
    return node(
        "ldm.conditioners.class_label.ClassLabel",
        num_classes=values["num_classes"],
        dim=values["dim"],
        key=ENTRY_NAMES.get(key, key),
        null_index=null_index,
    )


def bert_embedder(params: Any, name: str, path: str, key: str | None = None) -> dict[str, Any]:
    """``BERTEmbedder``: the text transformer with (or without) the BERT tokenizer.

    The original tokenises inside the network; here loaders do, so the batch entry is ``tokens``
    whatever the original called the texts.
    """
    values = apply(BERT, params, name, path)
    tokenizer = None
    if values.pop("use_tokenizer"):
        tokenizer = node(
            "ldm.conditioners.tokenizer.BertTokenizer",
            vocab="bert-base-uncased",
            length=values["length"],
        )
    return _text(values, "tokens" if tokenizer else key or "tokens", tokenizer)


def transformer_embedder(
    params: Any, name: str, path: str, key: str | None = None
) -> dict[str, Any]:
    """``TransformerEmbedder``: the text transformer on token ids."""
    return _text(apply(TRANSFORMER, params, name, path), key or "tokens", None)


def _text(values: dict[str, Any], key: str, tokenizer: dict[str, Any] | None) -> dict[str, Any]:
    return node(
        "ldm.conditioners.text.TextTransformer",
        **values,
        tokenizer=tokenizer,
        key=ENTRY_NAMES.get(key, key),
    )


CONDITIONERS: dict[str, Callable[..., dict[str, Any]]] = {
    "ldm.modules.encoders.modules.ClassEmbedder": class_embedder,
    "ldm.modules.encoders.modules.BERTEmbedder": bert_embedder,
    "ldm.modules.encoders.modules.TransformerEmbedder": transformer_embedder,
}
