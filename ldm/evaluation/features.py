"""The contract of a feature extractor, and what is done with any of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor


class FeatureExtractor(Protocol):
    """A network that turns images into features; any ``nn.Module`` with these names will do.

    Attributes:
        name: what a report calls it.
        dim: length of a feature vector.
    """

    name: str
    dim: int

    def __call__(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] to features (B, dim)."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """The weights."""
        ...


@torch.no_grad()
def extract_features(
    extractor: FeatureExtractor, batches: Iterable[Tensor], device: torch.device | str = "cpu"
) -> Tensor:
    """Features of all images, (N, D) float32 on the CPU.

    Args:
        extractor: in eval mode, on ``device``.
        batches: image batches (B, 3, H, W) in [-1, 1]; values outside are clamped.
        device: where the extractor lives.
    """
    features = [extractor(batch.to(device).clamp(-1, 1)).float().cpu() for batch in batches]
    if not features:
        raise ValueError("there are no images to extract features from")
    return torch.cat(features)


def weights_sha256(extractor: FeatureExtractor) -> str:
    """Fingerprint of names, types, shapes and values of all weights, as a hex digest."""
    digest = hashlib.sha256()
    for key, value in sorted(extractor.state_dict().items()):
        value = value.detach().cpu().contiguous()
        digest.update(f"{key}:{value.dtype}:{tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
