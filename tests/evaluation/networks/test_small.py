from __future__ import annotations

import torch
from torch.utils.data import default_collate

from ldm.data.scenes.captions import CLASS_NAMES
from ldm.data.scenes.dataset import SceneDataset
from ldm.evaluation.networks.small import SceneFeatures


def batch(n: int, resolution: int = 32) -> dict:
    dataset = SceneDataset(resolution, n)
    return default_collate([dataset[i] for i in range(n)])


def test_features_have_the_promised_shape_at_any_resolution() -> None:
    network = SceneFeatures(width=8, dim=12)
    for resolution in (32, 64):
        (features,) = network.embed(batch(3, resolution)["image"]).values()
        assert features.shape == (3, 12) == (3, network.outputs["features"])
    assert network.logits(batch(2)["image"]).shape == (2, len(CLASS_NAMES), 3)


def test_targets_count_the_objects_of_each_class() -> None:
    target = SceneFeatures._at_least(torch.tensor([[4, 4, 7], [0, -1, -1]]))
    assert target.shape == (2, 24, 3)
    assert target[0, 4].tolist() == [1, 1, 0]
    assert target[0, 7].tolist() == [1, 0, 0]
    assert target[1, 0].tolist() == [1, 0, 0]
    assert target.sum() == 4


def test_it_learns_to_count() -> None:
    torch.manual_seed(0)
    network = SceneFeatures(width=8, dim=32)
    data = batch(16)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-2)
    first = network.loss(data)
    assert network.accuracy(data) < 0.2
    for _ in range(60):
        loss = network.loss(data)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1 * first
    assert network.accuracy(data) > 0.8
