from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ldm.errors import UserError
from ldm.evaluation.networks.base import ExtractorNetwork, as_network, features_of, weights_sha256
from ldm.evaluation.networks.registry import network
from ldm.evaluation.networks.resizing import Resizer
from ldm.evaluation.networks.small import SceneFeatures


class Colours(nn.Module):
    """Mean colours; remembers what it was shown."""

    name = "colours"
    dim = 3

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images)
        return images.mean((2, 3))


class Classifier(Colours):
    num_classes = 2

    def logits(self, images: Tensor) -> Tensor:
        return self(images)[:, :2] * 7


class Both(Classifier):
    def features_and_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self(images)
        return features, features[:, 1:]


def noise(height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


IMAGES = [noise(4, 4), noise(6, 4, 1), noise(4, 4, 2), noise(5, 5, 3), noise(6, 4, 4)]


def test_images_of_many_sizes_keep_their_order() -> None:
    extractor = Colours()
    got = features_of(as_network(extractor), IMAGES)["features"]
    want = torch.stack([image.float().mean((1, 2)) / 127.5 - 1 for image in IMAGES])
    assert torch.allclose(got, want, atol=1e-6)
    assert [len(batch) for batch in extractor.seen] == [2, 2, 1]
    assert not got.requires_grad


def test_an_extractor_sees_bytes_exactly() -> None:
    extractor = Colours()
    levels = torch.arange(256, dtype=torch.uint8).expand(3, 1, 256)
    features_of(as_network(extractor), [levels])
    (seen,) = extractor.seen
    assert torch.equal(((seen + 1) * 127.5).round().to(torch.uint8)[0], levels)
    assert (seen.min(), seen.max()) == (-1, 1)


def test_logits_of_classifiers() -> None:
    got = features_of(as_network(Classifier()), IMAGES)
    assert as_network(Classifier()).outputs == {"features": 3, "logits": 2}
    assert torch.allclose(got["logits"], 7 * got["features"][:, :2])
    got = features_of(as_network(Both()), IMAGES)
    assert torch.equal(got["logits"], got["features"][:, 1:])
    assert as_network(Colours()).outputs == {"features": 3}


def test_a_run_network_is_fingerprinted_and_marked() -> None:
    scenes = SceneFeatures(width=8, dim=4).eval()
    got = as_network(scenes, weights_file="runs/features")
    assert got.outputs == {"features": 4}  # its logits are no classes
    assert (got.name, got.weights_file, got.input_size) == ("SceneFeatures", "runs/features", None)
    assert got.weights_sha256 == weights_sha256(scenes)
    assert "not comparable" in got.remark
    assert got.resize.describe() == "not resized"
    image = noise(16, 16)
    want = scenes(image[None].float() / 127.5 - 1)
    assert torch.equal(features_of(got, [image])["features"], want.detach())
    assert as_network(got) is got


def test_images_are_brought_to_a_size_that_is_given() -> None:
    extractor = Colours()
    got = as_network(extractor, "pil-bicubic", size=8)
    features_of(got, IMAGES)
    assert [tuple(batch.shape) for batch in extractor.seen] == [(5, 3, 8, 8)]
    with pytest.raises(UserError, match="takes images as they are"):
        as_network(extractor, "clean")


def test_one_batch_may_hold_bytes_and_floats() -> None:
    network = ExtractorNetwork(Colours(), "clean", size=4)
    assert network.resize == Resizer("clean", 4)
    assert features_of(network, IMAGES)["features"].shape == (5, 3)


def test_no_images_have_no_features() -> None:
    got = features_of(as_network(Classifier()), [])
    assert {name: tuple(x.shape) for name, x in got.items()} == {
        "features": (0, 3),
        "logits": (0, 2),
    }


def test_wrong_names() -> None:
    for name in ("vgg", "clip", "clip:", "runs/features"):
        with pytest.raises(UserError, match=r"is none of inception, vgg16, dinov2, clip:ARCH"):
            network(name)
    with pytest.raises(UserError, match="Linear is no feature network"):
        as_network(nn.Linear(1, 1))
