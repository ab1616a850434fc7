"""Frozen encoders of OpenCLIP: text as Stable Diffusion v2 uses it, and images for retrieval."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from ldm.conditioners.base import Conditioner
from ldm.conditioners.checks import check_tensor
from ldm.conditioners.open_clip_towers import (
    Arch,
    ImageTower,
    TextTower,
    pixel_statistics,
    prepare_pixels,
)
from ldm.conditioners.pretrained import PretrainedModule
from ldm.conditioners.token_ids import check_droppable, check_tokens, check_value, empty_text
from ldm.conditioners.tokenizer import Tokenizer
from ldm.errors import ConfigError

Layer = Literal["last", "penultimate", "pooled"]


class OpenCLIPText(Conditioner):
    """Token ids (B, L) as OpenCLIP embeddings (B, L, D) for cross-attention; pooled (B, 1, D).

    The weights never learn; when they are read, see :class:`~ldm.conditioners.clip.CLIPText`.
    Parameters have the names of Stable Diffusion v2: ``model.transformer.resblocks...``.

    Args:
        arch: Name of an architecture of ``open_clip``, its description (``embed_dim``,
            ``text_cfg``, ``vision_cfg``, optionally ``quick_gelu``), or the path of a JSON file
            with such a description.
        pretrained: A tag of ``open_clip`` for these weights, or the path of a file of them. None:
            they are random if no checkpoint brings any.
        layer: "last", the output of the layer before it ("penultimate": Stable Diffusion v2), both
            through the final layer norm; or "pooled", the embedding that CLIP compares with
            images, of length 1 (retrieval-augmented diffusion).
        length: Ids per text.
        key: Name of the batch entry.
        tokenizer: Makes ids of texts; needed for ``drop_prob`` and guidance, where "no condition"
            is the empty text. OpenCLIP pads with zeros.
        in_checkpoint: Whether checkpoints hold the weights.
        drop_prob: See :class:`~ldm.conditioners.base.Conditioner`.

    Raises:
        ConfigError: If the arguments do not fit together or ``open_clip`` is not installed.
        CheckpointError: If there are no weights, or those of another network.
    """

    def __init__(
        self,
        arch: Arch = "ViT-H-14",
        pretrained: str | None = None,
        layer: Layer = "penultimate",
        length: int = 77,
        key: str = "tokens",
        tokenizer: Tokenizer | None = None,
        in_checkpoint: bool = True,
        drop_prob: float = 0.0,
    ) -> None:
        super().__init__(key, "crossattn", drop_prob)
        if layer not in get_args(Layer):
            raise ConfigError(f"layer must be one of {', '.join(get_args(Layer))}, got {layer!r}")
        self.layer = layer
        self.length = length
        self.tokenizer = tokenizer
        self.model = TextTower(arch, pretrained)
        self.dim = self.model.embed_dim if layer == "pooled" else self.model.width
        self.vocab_size = self.model.vocab_size
        check_tokens(key, length, self.model.longest, self.vocab_size, tokenizer)
        check_droppable(key, drop_prob, tokenizer)
        _freeze(self, self.model, pretrained, in_checkpoint)

    def forward(self, value: Tensor) -> Tensor:
        """Ids (B, L) with L <= length -> (B, L, D), or (B, 1, D) pooled."""
        check_value(self.key, value, self.length, self.vocab_size)
        self.model.fill()
        with torch.no_grad():
            if self.layer == "pooled":
                return F.normalize(self.model.pooled(value), dim=-1)[:, None]
            return self.model(value, skipped=1 if self.layer == "penultimate" else 0)

    def null(self, n: int, like: Tensor) -> Tensor:
        """Ids of the empty text, n times."""
        return empty_text(self.key, self.tokenizer, n, like)


class OpenCLIPImage(Conditioner):
    """Images (B, 3, H, W) in [-1, 1] as normalised OpenCLIP embeddings (B, 1, D).

    Images are resized and cropped to the middle square as CLIP was trained on. "No condition" is
    an embedding of zeros (Blattmann et al., Retrieval-Augmented Diffusion Models, 2022); as a value
    it is an image of NaN.

    Args:
        arch: See :class:`OpenCLIPText`.
        pretrained: See :class:`OpenCLIPText`.
        key: Name of the batch entry.
        in_checkpoint: Whether checkpoints hold the weights.
        drop_prob: See :class:`~ldm.conditioners.base.Conditioner`.

    Raises:
        ConfigError: If the arguments do not fit together or ``open_clip`` is not installed.
        CheckpointError: If there are no weights, or those of another network.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        arch: Arch = "ViT-L-14",
        pretrained: str | None = None,
        key: str = "image",
        in_checkpoint: bool = True,
        drop_prob: float = 0.0,
    ) -> None:
        super().__init__(key, "crossattn", drop_prob)
        self.model = ImageTower(arch, pretrained)
        self.dim = self.model.embed_dim
        mean, std = pixel_statistics(arch, pretrained)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        _freeze(self, self.model, pretrained, in_checkpoint)

    @torch.no_grad()
    def forward(self, value: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] -> (B, 1, D)."""
        check_tensor(value, self.key, "float", 3, None, None)
        self.model.fill()
        absent = value.isnan().flatten(1).all(1)
        embeddings = F.normalize(self.model(self._prepare(value)), dim=-1)
        return embeddings.masked_fill(absent[:, None], 0.0)[:, None]

    def null(self, n: int, like: Tensor) -> Tensor:
        """Images of NaN, which have the embedding 0."""
        return like.new_full((n, *like.shape[1:]), torch.nan)

    def _prepare(self, images: Tensor) -> Tensor:
        """Resized, cropped and standardised as for CLIP."""
        return prepare_pixels(images, self.model.side, self.mean, self.std)


def _freeze(
    conditioner: Conditioner, tower: PretrainedModule, pretrained: str | None, in_checkpoint: bool
) -> None:
    if pretrained is None and not in_checkpoint:
        raise ConfigError(f"in_checkpoint=False of {conditioner.key!r} needs pretrained weights")
    conditioner.freeze(in_checkpoint)
    if not in_checkpoint:
        tower.fill()
