from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ldm.evaluation.networks.base import extract_features, weights_sha256


class Colour(nn.Module):
    """A feature network from outside the library: the mean colour."""

    name, dim = "Colour", 3

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(3))

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3)) * self.gain


def test_features_of_batches_of_any_size() -> None:
    images = torch.rand(5, 3, 8, 8) * 2 - 1
    features = extract_features(Colour(), [images[:2], images[2:]])
    assert torch.equal(features, images.mean((2, 3)))
    assert not features.requires_grad
    assert extract_features(Colour(), [images + 10]).max() <= 1
    with pytest.raises(ValueError, match="no images"):
        extract_features(Colour(), [])


def test_the_fingerprint_changes_with_any_weight() -> None:
    network = Colour()
    before = weights_sha256(network)
    assert len(before) == 64
    assert weights_sha256(Colour()) == before
    with torch.no_grad():
        network.gain[2] += 1e-6
    assert weights_sha256(network) != before
    assert weights_sha256(network.half()) != weights_sha256(Colour())
