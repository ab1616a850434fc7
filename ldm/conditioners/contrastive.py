"""CLIP in training: pictures and the texts that describe them, in one space (Radford et al., 2021).

What is trained here is what :mod:`ldm.conditioners.open_clip` freezes: a text encoder, and the
embeddings with which retrieval compares images. Parameters have the names of ``open_clip``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldm.conditioners.base import check_tensor
from ldm.conditioners.open_clip import (
    Arch,
    ImageTower,
    TextTower,
    pixel_statistics,
    pooled_text,
    prepare_pixels,
)
from ldm.conditioners.text import check_tokens, check_value
from ldm.conditioners.tokenizers import Tokenizer
from ldm.errors import DataError

FIRST_SCALE, LARGEST_SCALE = 1 / 0.07, 100.0
"""Of the cosines in the softmax: at the beginning, and at most."""


class ContrastiveCLIP(nn.Module):
    """Both halves of a CLIP, and the loss that teaches them to agree.

    The weights are those of ``open_clip.CLIP`` of the same architecture, name by name:
    ``OpenCLIPText`` and ``OpenCLIPImage`` take their half of the file that
    ``scripts/convert.py RUN --to native`` writes, as does ``open_clip`` itself.

    Args:
        arch: Architecture of ``open_clip``: a name, a description, or a JSON file with one.
        tokenizer: Makes the ids of the data set; checked to be one for this architecture.
        image_key: Name of the batch entry with images (B, 3, H, W) in [-1, 1].
        text_key: Name of the batch entry with ids (B, L), which end by the highest id.

    Raises:
        ConfigError: If the arguments do not fit together or ``open_clip`` is not installed.
    """

    mean: Tensor
    std: Tensor
    attn_mask: Tensor | None

    def __init__(
        self,
        arch: Arch,
        tokenizer: Tokenizer | None = None,
        image_key: str = "image",
        text_key: str = "tokens",
    ) -> None:
        super().__init__()
        self.image_key, self.text_key = image_key, text_key
        text, image = TextTower(arch, None), ImageTower(arch, None)
        self.embed_dim, self.side = image.embed_dim, image.side
        self.vocab_size, self.longest = text.vocab_size, text.longest
        if tokenizer is not None:
            check_tokens(text_key, tokenizer.length, self.longest, self.vocab_size, tokenizer)
        # As in the files of open_clip: the parts of the text half carry no name of their own.
        self.positional_embedding = text.positional_embedding
        self.text_projection = text.text_projection
        self.logit_scale = nn.Parameter(torch.tensor(math.log(FIRST_SCALE)))
        self.visual = image.visual
        self.transformer = text.transformer
        self.token_embedding = text.token_embedding
        self.ln_final = text.ln_final
        self.register_buffer("attn_mask", text.attn_mask, persistent=False)
        mean, std = pixel_statistics(arch, None)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) in [-1, 1] and ids (B, L) as embeddings (B, D) of length 1 each."""
        pixels = prepare_pixels(images, self.side, self.mean, self.std)
        embeddings = F.normalize(self.visual(pixels), dim=-1)
        return embeddings, F.normalize(pooled_text(self, ids), dim=-1)

    def loss(self, batch: Mapping[str, Any]) -> Tensor:
        """Symmetric cross entropy (scalar) of who belongs to whom within a batch.

        Texts that say the same have all images of each other as their own, in equal shares; where
        no two do, this is the loss of CLIP. A network that tells nothing apart gets log B.

        Raises:
            DataError: An entry is missing or malformed.
        """
        images, ids = self._entries(batch)
        embeddings, texts = self(images, ids)
        scale = self.logit_scale.exp().clamp(max=LARGEST_SCALE)
        logits = scale * embeddings @ texts.T
        same = _equal_rows(ids).to(logits.dtype)
        target = same / same.sum(1, keepdim=True)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    @torch.no_grad()
    def accuracy(self, batch: Mapping[str, Any]) -> Tensor:
        """Share (scalar) of the texts whose nearest image of the batch has that text.

        Guessing gets about 1 / B, more where texts repeat.
        """
        images, ids = self._entries(batch)
        embeddings, texts = self(images, ids)
        nearest = (texts @ embeddings.T).argmax(1)
        return (ids[nearest] == ids).all(1).float().mean()

    def _entries(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        for key in (self.image_key, self.text_key):
            if key not in batch:
                raise DataError(
                    f"CLIP learns from {self.image_key!r} and {self.text_key!r}, but the items "
                    f"hold no {key!r}: give the data set a tokenizer, or name the entry"
                )
        images, ids = batch[self.image_key], batch[self.text_key]
        check_tensor(images, self.image_key, "float", 3, None, None)
        check_value(self.text_key, ids, self.longest, self.vocab_size)
        return images, ids


def _equal_rows(ids: Tensor) -> Tensor:
    """Whether rows i and j of ids (B, L) are equal, (B, B)."""
    return (ids[:, None] == ids[None]).all(-1)
