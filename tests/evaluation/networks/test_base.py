from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ldm.errors import UserError
from ldm.evaluation.networks.base import FeatureNetwork, features_of, weights_sha256
from ldm.evaluation.networks.registry import network, own_network
from ldm.evaluation.networks.resizing import Resizer
from ldm.evaluation.networks.small import ClassFeatures, SceneFeatures


class Colours(FeatureNetwork):
    """Mean colours; remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__({"features": 3})
        self.weight = nn.Parameter(torch.ones(3))
        self.seen: list[Tensor] = []

    def embed(self, images: Tensor) -> dict[str, Tensor]:
        self.seen.append(images)
        return {"features": images.mean((2, 3)) * self.weight}


def noise(height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


IMAGES = [noise(4, 4), noise(6, 4, 1), noise(4, 4, 2), noise(5, 5, 3), noise(6, 4, 4)]


def test_images_of_many_sizes_keep_their_order() -> None:
    colours = Colours()
    got = features_of(colours, IMAGES)["features"]
    want = torch.stack([image.float().mean((1, 2)) / 127.5 - 1 for image in IMAGES])
    assert torch.allclose(got, want, atol=1e-6)
    assert [len(batch) for batch in colours.seen] == [2, 2, 1]
    assert not got.requires_grad


def test_an_own_network_sees_bytes_exactly() -> None:
    colours = Colours()
    levels = torch.arange(256, dtype=torch.uint8).expand(3, 1, 256)
    features_of(colours, [levels])
    (seen,) = colours.seen
    assert torch.equal(((seen + 1) * 127.5).round().to(torch.uint8)[0], levels)
    assert (seen.min(), seen.max()) == (-1, 1)


def test_logits_of_classifiers() -> None:
    torch.manual_seed(0)
    classes = ClassFeatures(2, width=8, dim=4).eval()
    got = features_of(classes, IMAGES)
    assert {name: x.shape[1] for name, x in got.items()} == classes.outputs
    want = classes.head(nn.functional.silu(got["features"])).detach()
    torch.testing.assert_close(got["logits"], want)


def test_a_run_network_is_fingerprinted_and_marked() -> None:
    scenes = SceneFeatures(width=8, dim=4)
    got = own_network(scenes, weights_file="runs/features")
    assert got is scenes
    assert not scenes.training
    assert got.outputs == {"features": 4}  # its logits are no classes
    assert (got.name, got.weights_file, got.input_size) == ("SceneFeatures", "runs/features", None)
    assert got.weights_sha256 == weights_sha256(scenes)
    assert "not comparable" in got.remark
    assert got.resize.describe() == "not resized"
    image = noise(16, 16)
    want = scenes.embed(image[None].float() / 127.5 - 1)["features"]
    assert torch.equal(features_of(got, [image])["features"], want.detach())
    assert not features_of(got, [image])["features"].requires_grad


def test_the_fingerprint_changes_with_any_weight() -> None:
    colours = Colours()
    before = colours.weights_sha256
    assert len(before) == 64
    assert Colours().weights_sha256 == before
    with torch.no_grad():
        colours.weight[2] += 1e-6
    assert colours.weights_sha256 != before
    assert weights_sha256(colours.half()) != weights_sha256(Colours())


def test_images_are_brought_to_a_size_that_is_given() -> None:
    colours = Colours()
    got = own_network(colours, "pil-bicubic", size=8)
    features_of(got, IMAGES)
    assert [tuple(batch.shape) for batch in colours.seen] == [(5, 3, 8, 8)]
    with pytest.raises(UserError, match="takes images as they are"):
        own_network(colours, "clean")


def test_one_batch_may_hold_bytes_and_floats() -> None:
    colours = Colours().use("clean", size=4)
    assert colours.resize == Resizer("clean", 4)
    assert features_of(colours, IMAGES)["features"].shape == (5, 3)


def test_no_images_have_no_features() -> None:
    got = features_of(ClassFeatures(2, width=8, dim=3), [])
    assert {name: tuple(x.shape) for name, x in got.items()} == {
        "features": (0, 3),
        "logits": (0, 2),
    }


def test_wrong_names() -> None:
    for name in ("vgg", "clip", "clip:", "runs/features"):
        with pytest.raises(UserError, match=r"is none of inception, vgg16, dinov2, clip:ARCH"):
            network(name)
    with pytest.raises(UserError, match="Linear is no feature network"):
        own_network(nn.Linear(1, 1))
