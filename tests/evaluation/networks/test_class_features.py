from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ldm.evaluation.networks.small import ClassFeatures


def batch(n: int) -> dict[str, Tensor]:
    """Three classes: the brighter channel tells them apart."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 3
    images = torch.randn(n, 3, 16, 16, generator=generator) * 0.3
    images[torch.arange(n), labels] += 0.5
    return {"image": images.clamp(-1, 1), "class_label": labels}


@pytest.mark.parametrize("side", [16, 32])
def test_features_and_logits_have_the_promised_shape(side: int) -> None:
    network = ClassFeatures(num_classes=5, width=8, dim=12).eval()
    images = torch.zeros(2, 3, side, side)
    found = {name: tuple(x.shape) for name, x in network.embed(images).items()}
    assert found == {"features": (2, 12), "logits": (2, 5)}
    assert {name: (2, width) for name, width in network.outputs.items()} == found


def test_features_of_an_image_do_not_depend_on_the_batch() -> None:
    torch.manual_seed(0)
    network = ClassFeatures(num_classes=3, width=8, dim=12)
    images = batch(6)["image"]
    alone = torch.cat([network.embed(image[None])["features"] for image in images])
    assert torch.allclose(network.embed(images)["features"], alone, atol=1e-5)


def test_it_learns_the_classes() -> None:
    torch.manual_seed(0)
    network = ClassFeatures(num_classes=3, width=8, dim=12)
    data = batch(24)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-2)
    first = network.loss(data)
    for _ in range(20):
        loss = network.loss(data)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.3 * first
    assert network.accuracy(data) > 0.9
