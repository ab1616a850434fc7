"""Small feature networks that a run trains in minutes: for synthetic scenes, and for classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldm.data.scenes.captions import CLASS_NAMES
from ldm.evaluation.networks.base import FeatureNetwork

MAX_COUNT = 3


class SceneFeatures(FeatureNetwork):
    """Counts the objects of each class; its penultimate layer gives features.

    The task makes the features sensitive to what a scene shows: shape, colour and number. They
    mean nothing outside synthetic scenes and are not comparable with published FIDs.

    Args:
        width: channels of the first layer.
        dim: length of the feature vector.
    """

    def __init__(self, width: int = 32, dim: int = 64) -> None:
        super().__init__({"features": dim})
        self.body = nn.Sequential(
            _block(3, width, stride=2),
            _block(width, 2 * width, stride=1),
            _block(2 * width, 4 * width, stride=2),
            _block(4 * width, 4 * width, stride=1),
        )
        self.features = nn.Linear(8 * width, dim)
        self.head = nn.Linear(dim, len(CLASS_NAMES) * MAX_COUNT)

    def embed(self, images: Tensor) -> dict[str, Tensor]:
        """``features`` (B, dim) of images (B, 3, H, W) in [-1, 1]."""
        return {"features": self.features(_pooled(self.body(images)))}

    def logits(self, images: Tensor) -> Tensor:
        """Logits (B, 24, 3): are there at least 1, 2, 3 objects of each class?"""
        found = self.head(F.silu(self.embed(images)["features"]))
        return found.unflatten(1, (len(CLASS_NAMES), MAX_COUNT))

    def loss(self, batch: Mapping[str, Any]) -> Tensor:
        """Binary cross entropy on a batch with ``image`` and ``box_labels`` (B, N)."""
        logits = self.logits(batch["image"])
        target = self._at_least(batch["box_labels"].to(logits.device))
        return F.binary_cross_entropy_with_logits(logits, target)

    @torch.no_grad()
    def accuracy(self, batch: Mapping[str, Any]) -> Tensor:
        """Share (scalar) of the images of which every count is right."""
        logits = self.logits(batch["image"])
        right = (logits > 0) == self._at_least(batch["box_labels"].to(logits.device)).bool()
        return right.flatten(1).all(1).float().mean()

    @staticmethod
    def _at_least(labels: Tensor) -> Tensor:
        """Labels (B, N), -1 = none, to (B, 24, 3) of 0 and 1."""
        counts = F.one_hot(labels + 1, len(CLASS_NAMES) + 1)[..., 1:].sum(1)
        steps = torch.arange(1, MAX_COUNT + 1, device=labels.device)
        return (counts[..., None] >= steps).float()


class ClassFeatures(FeatureNetwork):
    """Tells classes apart; its penultimate layer gives features.

    What Inception is to ImageNet, in small: whatever the classifier needs in order to know a class,
    its features are sensitive to. They are not comparable with published FIDs, nor with those of
    the same network trained once more.

    Args:
        num_classes: number of classes.
        width: channels of the first layer.
        dim: length of the feature vector.
    """

    def __init__(self, num_classes: int, width: int = 32, dim: int = 64) -> None:
        super().__init__({"features": dim, "logits": num_classes})
        self.body = nn.Sequential(
            _block(3, width, stride=2, bias=False),
            _block(width, 2 * width, stride=1, bias=False),
            _block(2 * width, 4 * width, stride=2, bias=False),
            _Residual(4 * width),
        )
        self.features = nn.Linear(8 * width, dim)
        self.head = nn.Linear(dim, num_classes)

    def embed(self, images: Tensor) -> dict[str, Tensor]:
        """``features`` (B, dim) and ``logits`` (B, num_classes) of images in [-1, 1]."""
        features = self.features(_pooled(self.body(images)))
        return {"features": features, "logits": self.head(F.silu(features))}

    def loss(self, batch: Mapping[str, Any]) -> Tensor:
        """Cross entropy (scalar) on a batch with ``image`` and ``class_label`` (B,)."""
        return F.cross_entropy(self.embed(batch["image"])["logits"], batch["class_label"])

    @torch.no_grad()
    def accuracy(self, batch: Mapping[str, Any]) -> Tensor:
        """Share (scalar) of the images whose likeliest class is the right one."""
        found = self.embed(batch["image"])["logits"].argmax(1)
        return (found == batch["class_label"]).float().mean()


class _Residual(nn.Module):
    """A block that adds to what it is given."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block = _block(channels, channels, stride=1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        return maps + self.block(maps)


def _block(channels: int, out_channels: int, stride: int, bias: bool = True) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out_channels, 3, stride, 1, bias=bias),
        nn.GroupNorm(8, out_channels),
        nn.SiLU(),
    )


def _pooled(maps: Tensor) -> Tensor:
    """Mean and maximum (B, 2C) of maps (B, C, h, w)."""
    return torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], dim=1)
