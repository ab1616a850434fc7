"""LPIPS against the original code and against the package of its authors."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ldm.errors import ConfigError
from ldm.losses.perceptual import LPIPS, unit_length
from tests.parity import FIXTURES, assert_close, formula_weights, load_case

THIN = load_case("lpips_thin")


def thin(channels: Any = "rgb") -> LPIPS:
    network = LPIPS(channels, widths=THIN.config["widths"])
    network.load_state_dict(THIN.weights, strict=True)
    return network


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_golden_thin() -> None:
    network = thin()
    a, b = THIN.inputs["a"].clone().requires_grad_(), THIN.inputs["b"]
    distance = network(a, b)
    distance.sum().backward()
    assert_close(distance, THIN.outputs["distance"], what="distance")
    assert_close(a.grad, THIN.outputs["grad_a"], what="gradient")
    assert_close(network.scaling_layer(a), THIN.outputs["scaled_a"], what="scaled")
    for i, features in enumerate(network.features(a)):
        assert_close(features.mean((0, 2, 3)), THIN.outputs[f"feat_{i}.mean"], what=f"stage {i}")


def test_golden_official_size() -> None:
    case = load_case("formula_lpips")
    network = LPIPS()
    assert sum(p.numel() for p in network.parameters()) == case.config["parameters"]
    formula_weights(network, case.config["seed"])
    assert_close(network(case.inputs["a"], case.inputs["b"]), case.outputs["distance"])


def test_keys_are_the_published_ones() -> None:
    published = json.loads((FIXTURES / "keys" / "lpips_vgg.json").read_text())["state_dict"]
    with torch.device("meta"):
        state = LPIPS().state_dict()
    assert [[key, list(value.shape), "float32"] for key, value in state.items()] == published


@pytest.mark.filterwarnings("ignore::UserWarning")  # it still says pretrained to torchvision
def test_the_package_of_the_authors_agrees() -> None:
    """Values and gradients, with VGG16 as torchvision builds it."""
    theirs_module = pytest.importorskip("lpips")
    ours = LPIPS()
    with torch.device("meta"):
        theirs = theirs_module.LPIPS(net="vgg", pretrained=False, pnet_rand=True, verbose=False)
    theirs = theirs.to_empty(device="cpu").eval()
    for head in range(5):
        getattr(ours, f"lin{head}").model[0].weight.abs_()  # published heads are not negative
    missing, unexpected = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert all(key.startswith("lins.") for key in missing)  # a second name of the heads
    assert not unexpected

    results = []
    for network in (ours, theirs):
        x, y = images(2, 3, 40, 24, seed=1), images(2, 3, 40, 24, seed=2).requires_grad_()
        distance = network(x, y)
        distance.sum().backward()
        results.append((distance, y.grad))
    for got, want in zip(*results, strict=True):
        assert_close(got, want)
    assert results[0][0].min() > 0


def test_it_is_frozen_and_does_not_depend_on_the_mode() -> None:
    network = thin()
    assert not any(p.requires_grad for p in network.parameters())
    a, b = THIN.inputs["a"], THIN.inputs["b"]
    assert torch.equal(network.train()(a, b), network.eval()(a, b))


def test_only_images_that_need_a_gradient_cost_memory() -> None:
    network = thin()
    assert not any(f.requires_grad for f in network.features(THIN.inputs["a"]))
    for needs in ((True, False), (False, True)):
        x, y = (images(1, 3, 16, 16).requires_grad_(need) for need in needs)
        network(x, y + 0.1).sum().backward()
        assert [image.grad is not None for image in (x, y)] == list(needs)


@pytest.mark.parametrize("fill", [-1.0, 0.0, 1.0])
def test_identical_and_flat_images(fill: float) -> None:
    network = thin()
    flat, other = torch.full((2, 3, 32, 32), fill), images(2, 3, 32, 32)
    for x, y in ((flat, flat), (other, other), (other, flat)):
        y = y.clone().requires_grad_()
        distance = network(x, y)
        distance.sum().backward()
        assert y.grad is not None
        assert y.grad.isfinite().all()
        if torch.equal(x, y):
            assert distance.abs().max() == 0
            assert y.grad.abs().max() == 0


def test_dead_stages_have_finite_gradients() -> None:
    """Biases that kill every feature: what is left of the image has length 0."""
    network = thin()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                parameter.fill_(-100.0)
    y = images(1, 3, 16, 16).requires_grad_()
    network(images(1, 3, 16, 16, seed=3), y).sum().backward()
    assert y.grad is not None
    assert y.grad.isfinite().all()


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-22, 1e-10, 1.0])
def test_unit_length_has_finite_gradients(size: float) -> None:
    features = torch.full((1, 4, 2, 2), size).requires_grad_()
    unit = unit_length(features)
    (unit**2).sum().backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()
    published = features / ((features**2).sum(1, keepdim=True).sqrt() + 1e-10)
    if size == 0 or size > 1e-9:
        assert_close(unit, published.detach())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_float32_under_autocast(dtype: torch.dtype) -> None:
    network = thin()
    a, b = THIN.inputs["a"], THIN.inputs["b"]
    with torch.autocast("cpu", dtype=dtype):
        got = network(a, b)
    assert torch.equal(got, network(a, b))
    for other in (dtype, torch.float64):
        assert network(a.to(other), b.to(other)).dtype == torch.float32


def planes(x: Tensor, *indices: int) -> Tensor:
    return x[:, list(indices)]


@pytest.mark.parametrize(
    ("channels", "count", "as_rgb"),
    [
        ("repeat", 1, lambda x: [planes(x, 0, 0, 0)]),
        ("each", 2, lambda x: [planes(x, 0, 0, 0), planes(x, 1, 1, 1)]),
        ("each", 1, lambda x: [planes(x, 0, 0, 0)]),
        ([3, 2, 1], 12, lambda x: [planes(x, 3, 2, 1)]),
        ((0, 0, 1), 2, lambda x: [planes(x, 0, 0, 1)]),
    ],
)
def test_channel_policies(
    channels: Any, count: int, as_rgb: Callable[[Tensor], list[Tensor]]
) -> None:
    x, y = images(3, count, 16, 24, seed=1), images(3, count, 16, 24, seed=2)
    got = thin(channels)(x, y)
    pairs = zip(as_rgb(x), as_rgb(y), strict=True)
    want = torch.stack([thin()(a, b) for a, b in pairs]).mean(0)
    assert got.shape == (3, 1, 1, 1)
    assert_close(got, want)


@pytest.mark.parametrize(
    ("channels", "count"),
    [("rgb", 1), ("rgb", 4), ("repeat", 3), ([3, 2, 1], 3)],
)
def test_images_that_do_not_suit_the_policy(channels: Any, count: int) -> None:
    x = images(1, count, 16, 16)
    with pytest.raises(ValueError, match=rf"images of {count} channels: set .*'rgb'.*'repeat'"):
        thin(channels)(x, x)


@pytest.mark.parametrize("channels", ["grey", "", [0, 1], [0, 1, 2, 3], [-1, 0, 1], [0.0, 1, 2]])
def test_unknown_policies(channels: Any) -> None:
    with pytest.raises(ConfigError, match=r"unknown channels .* choose 'rgb'.*'each'"):
        LPIPS(channels)


def test_images_that_cannot_be_compared() -> None:
    network = thin()
    small = images(1, 3, 15, 64)
    with pytest.raises(ValueError, match=r"sides of 16 or more, got \(1, 3, 15, 64\)"):
        network(small, small)
    with pytest.raises(ValueError, match=r"got \(2, 3, 16, 16\) and \(1, 3, 16, 16\)"):
        network(images(2, 3, 16, 16), images(1, 3, 16, 16))
    assert network(images(1, 3, 16, 16), images(1, 3, 16, 16, seed=1)).isfinite().all()


def test_published_widths_train_in_channels_last() -> None:
    torch.manual_seed(0)
    network = LPIPS(widths=[64, 128, 256, 512, 512]).to(memory_format=torch.channels_last)
    a, b = images(1, 3, 64, 64), images(1, 3, 64, 64, seed=1)
    a = a.contiguous(memory_format=torch.channels_last).requires_grad_()
    (ours,) = torch.autograd.grad(network(a, b).sum(), a)
    (exact,) = torch.autograd.grad(network.double()(a.double(), b.double()).sum(), a)
    assert (ours - exact).norm() < 1e-4 * exact.norm()
