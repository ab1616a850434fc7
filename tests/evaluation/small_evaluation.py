"""A network that needs no training, and images in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ldm.evaluation.networks.base import FeatureNetwork
from ldm.evaluation.sources.base import Item, ReadSource, SourceInfo, Unreadable, describe_labels


class Sums(FeatureNetwork):
    """Random sums over a grid of 4 x 4 means: 6 features, 5 logits."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__({"features": 6, "logits": 5})
        self.name = "sums"
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(48, 11, generator=generator), requires_grad=False)
        self.seen = 0

    def embed(self, images: Tensor) -> dict[str, Tensor]:
        self.seen += len(images)
        means = nn.functional.adaptive_avg_pool2d(images, 4).flatten(1)
        features, logits = (means @ self.weight).split([6, 5], 1)
        return {"features": features, "logits": logits}


def sums(seed: int = 0) -> Sums:
    return Sums(seed).eval()


def pictures(count: int, seed: int, size: int = 8, shift: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 200, (count, 3, size, size), generator=generator) + shift
    return list(images.to(torch.uint8))


class Pictures(ReadSource):
    """Images in memory; those at ``broken`` cannot be read."""

    def __init__(
        self,
        images: Sequence[Tensor],
        labels: list[int] | None = None,
        captions: list[str] | None = None,
        broken: Sequence[int] = (),
        skip_corrupt: bool = False,
        where: str = "memory",
        **about: Any,
    ) -> None:
        super().__init__(where, len(images), skip_corrupt)
        self._images, self._labels, self._captions = images, labels, captions
        self._broken, self._about = broken, about

    def _items(self, rank: int, processes: int) -> Iterator[Item | Unreadable]:
        for k in range(rank, len(self), processes):
            if k in self._broken:
                yield Unreadable(f"{k}.png", "cut short")
                continue
            label = None if self._labels is None else self._labels[k]
            caption = None if self._captions is None else self._captions[k]
            yield Item(k, self._images[k], label, caption)

    def _info(self) -> SourceInfo:
        digest = hashlib.sha256(b"".join(image.numpy().tobytes() for image in self._images))
        height, width = self._images[0].shape[1:]
        about = {
            "formats": {"PNG": len(self)},
            "sizes": {"height": [height, height], "width": [width, width]},
            "labels": describe_labels(self._labels),
            "captions": self._captions is not None,
            **self._about,
        }
        return SourceInfo("folder", self.where, len(self), digest.hexdigest(), about)
