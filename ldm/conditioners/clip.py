"""The frozen text encoder of CLIP as Stable Diffusion v1 uses it (from transformers)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ldm.conditioners.base import Conditioner
from ldm.conditioners.pretrained import (
    PretrainedModule,
    freeze_pretrained,
    hub_file,
    read_weights,
)
from ldm.conditioners.text import check_tokens, check_value, empty_text
from ldm.conditioners.tokenizers import Tokenizer
from ldm.errors import CheckpointError, ConfigError

Layer = Literal["last", "penultimate"]

VIT_L_14 = "openai/clip-vit-large-patch14"
VIT_L_14_SIZES = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
}
"""Where they differ from the defaults of ``CLIPTextConfig``; Stable Diffusion v1 has these."""

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_PREFIX = "text_model."
_ADVICE = (
    "give as path a folder with its config.json and model.safetensors, or load a checkpoint that "
    "holds the encoder"
)


class CLIPText(Conditioner):
    """Token ids (B, L) as a sequence of CLIP embeddings (B, L, D) for cross-attention.

    The weights never learn. They are read when they are first needed, unless a checkpoint brings
    them before; with ``in_checkpoint=False`` when this is built. Parameters have the names of
    Stable Diffusion v1: ``transformer.text_model...``.

    Args:
        path: A folder with ``config.json`` and weights, or a name on the Hugging Face hub. None:
            the weights are random if no checkpoint brings any.
        layer: "last", or the output of the layer before it ("penultimate"); both pass the final
            layer norm.
        length: Longest sequence.
        key: Name of the batch entry.
        tokenizer: Makes ids of texts; needed for ``drop_prob`` and guidance, where "no condition"
            is the empty text.
        in_checkpoint: Whether checkpoints hold the weights, so that ``path`` is asked for only
            when training begins.
        drop_prob: See :class:`~ldm.conditioners.Conditioner`.
        config: Sizes, as arguments of ``transformers.CLIPTextConfig``. None: those of the folder
            or of the hub, which are known without a look for CLIP ViT-L/14.

    Raises:
        ConfigError: If the arguments do not fit together.
        CheckpointError: If there are no weights, or those of another network.
    """

    def __init__(
        self,
        path: str | None = VIT_L_14,
        layer: Layer = "last",
        length: int = 77,
        key: str = "tokens",
        tokenizer: Tokenizer | None = None,
        in_checkpoint: bool = True,
        drop_prob: float = 0.0,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(key, "crossattn", drop_prob)
        if layer not in get_args(Layer):
            raise ConfigError(f"layer must be one of {', '.join(get_args(Layer))}, got {layer!r}")
        self.layer = layer
        self.length = length
        self.tokenizer = tokenizer
        self.transformer = _TextModel(path, _sizes(path) if config is None else config)
        sizes = self.transformer.text_model.config
        self.dim: int = sizes.hidden_size
        self.vocab_size: int = sizes.vocab_size
        longest = sizes.max_position_embeddings
        check_tokens(key, length, longest, self.vocab_size, tokenizer, drop_prob)
        freeze_pretrained(self, self.transformer, path, in_checkpoint)

    def forward(self, value: Tensor) -> Tensor:
        """Ids (B, L) with L <= length -> (B, L, D)."""
        check_value(self.key, value, self.length, self.vocab_size)
        self.transformer.fill()
        with torch.no_grad():
            return self.transformer(value, self.layer)

    def null(self, n: int, like: Tensor) -> Tensor:
        """Ids of the empty text, n times."""
        return empty_text(self.key, self.tokenizer, n, like)


class _TextModel(PretrainedModule):
    """Holds the encoder under the name that transformers gave it before its version 5."""

    def __init__(self, path: str | None, sizes: Mapping[str, Any]) -> None:
        super().__init__(None if path is None else partial(_read, path))
        from transformers import CLIPTextModel

        model = CLIPTextModel(_text_config(sizes))
        self.text_model: Any = getattr(model, "text_model", model)

    def forward(self, ids: Tensor, layer: Layer) -> Tensor:
        """Ids (B, L) -> (B, L, D)."""
        if layer == "last":
            return self.text_model(input_ids=ids).last_hidden_state
        states = self.text_model(input_ids=ids, output_hidden_states=True).hidden_states
        return self.text_model.final_layer_norm(states[-2])


def _sizes(path: str | None) -> dict[str, Any]:
    """The sizes of the encoder in a folder or on the hub."""
    from transformers import CLIPTextConfig

    if path in (None, VIT_L_14):
        return VIT_L_14_SIZES
    found = CLIPTextConfig.from_pretrained(str(_file(str(path), ("config.json",)).parent))
    sizes: dict[str, Any] = found.to_dict()
    return {name: value for name, value in sizes.items() if name in CLIPTextConfig().to_dict()}


def _text_config(sizes: Mapping[str, Any]) -> Any:
    from transformers import CLIPTextConfig

    unknown = sorted(set(sizes) - set(CLIPTextConfig().to_dict()))
    if unknown:
        raise ConfigError(f"config.{unknown[0]}: unknown, it is no argument of CLIPTextConfig")
    try:
        return CLIPTextConfig(**sizes)
    except Exception as error:  # the checks of transformers have a class of their own
        raise ConfigError(f"config: {' '.join(str(error).split())}") from error


def _file(path: str, names: tuple[str, ...]) -> Path:
    folder = Path(path).expanduser()
    if folder.is_dir():
        for name in names:
            if (folder / name).is_file():
                return folder / name
        raise CheckpointError(f"{folder} has no {' or '.join(names)}: {_ADVICE}")
    if folder.is_absolute() or path.startswith(".") or path.count("/") > 1:
        raise CheckpointError(f"{folder}: no such folder; {_ADVICE}")
    return hub_file(path, names, _ADVICE)


def _read(path: str) -> dict[str, Tensor]:
    """Weights of the text encoder alone, under the names that they have in here."""
    weights = read_weights(_file(path, _WEIGHTS))
    if not any(name.startswith(_PREFIX) for name in weights):  # as transformers 5 writes them
        weights = {_PREFIX + name: value for name, value in weights.items()}
    return {
        name: value
        for name, value in weights.items()
        if name.startswith(_PREFIX) and not name.endswith(".position_ids")
    }
