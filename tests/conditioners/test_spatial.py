from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.autoencoders.base import DiagonalGaussian
from ldm.conditioners.spatial import ConcatImage, LatentImage, ResizedMask, SpatialRescaler
from ldm.errors import ConfigError, DataError
from tests.parity import assert_close, load_case


def one_hot(ids: Tensor, classes: int) -> Tensor:
    """(B, H, W) -> (B, classes, H, W); other ids are all zero."""
    return torch.stack([ids == i for i in range(classes)], dim=1).float()


@pytest.mark.parametrize("variant", range(7))
def test_golden(variant: int) -> None:
    case = load_case("spatial_rescaler")
    options = dict(case.config[variant])
    options["stages"] = options.pop("n_stages")
    model = SpatialRescaler(**{"in_channels": 6, **options})
    weights = {
        k.removeprefix(f"v{variant}."): v
        for k, v in case.weights.items()
        if k.startswith(f"v{variant}.")
    }
    model.load_state_dict(weights)
    assert_close(model(case.inputs["x"]), case.outputs[f"y.{variant}"])


@pytest.mark.parametrize("method", ["nearest", "bilinear", "bicubic", "area"])
@pytest.mark.parametrize("bias", [False, True])
def test_ids_give_what_their_one_hot_maps_give(method: str, bias: bool) -> None:
    torch.manual_seed(0)
    model = SpatialRescaler(7, 3, stages=2, method=method, bias=bias)
    ids = torch.randint(-1, 7, (2, 16, 12))
    ids[0, :4, :4] = 255
    assert_close(model(ids), model(one_hot(ids, 7)), rtol=1e-6)
    assert model(ids).shape == (2, 3, 4, 3)


def test_gradients_of_ids_are_those_of_their_one_hot_maps() -> None:
    torch.manual_seed(0)
    model = SpatialRescaler(5, 3, stages=2)
    ids = torch.randint(-1, 5, (2, 8, 8))
    cotangent = torch.randn(2, 3, 2, 2)
    grads = []
    for value in (ids, one_hot(ids, 5)):
        (grad,) = torch.autograd.grad((model(value) * cotangent).sum(), model.channel_mapper.weight)
        grads.append(grad)
    assert_close(grads[0], grads[1], rtol=1e-5)


def test_ids_never_become_full_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(F, "one_hot", lambda *_: pytest.fail("one-hot maps were made"))
    resize = F.interpolate

    def spy(x: Tensor, **options: Any) -> Tensor:
        seen.append(tuple(x.shape))
        return resize(x, **options)

    monkeypatch.setattr(F, "interpolate", spy)
    SpatialRescaler(182, 3, stages=2)(torch.zeros(1, 64, 64).long())
    assert seen == [(1, 3, 64, 64), (1, 3, 32, 32)]


def test_ids_without_a_convolution() -> None:
    ids = torch.tensor([[[0, 1], [255, -1]]])
    model = SpatialRescaler(3, stages=1)
    assert model.channels == 3
    assert model(ids)[0, :, 0, 0].tolist() == [0.25, 0.25, 0.0]


def test_null_is_no_class_anywhere() -> None:
    model = SpatialRescaler(4, 2, stages=1)
    ids = torch.zeros(3, 4, 4).long()
    null = model.null(3, ids)
    assert null.dtype == torch.int64
    assert model(null).abs().max() == 0
    maps = model.null(2, torch.ones(3, 4, 6, 6))
    assert maps.shape == (2, 4, 6, 6)
    assert model(maps).abs().max() == 0
    with pytest.raises(ConfigError, match="'segmentation': set ignore"):
        SpatialRescaler(4, 2, ignore=()).null(1, ids)


@pytest.mark.parametrize("wrong", [4, -2, 254])
def test_an_unknown_class_id_is_named(wrong: int) -> None:
    ids = torch.zeros(2, 4, 4).long()
    ids[1, 2, 3] = wrong
    message = rf"^'segmentation': class id {wrong} is outside 0 to 3 or -1, 255$"
    with pytest.raises(DataError, match=message):
        SpatialRescaler(4, 2)(ids)


@pytest.mark.parametrize(
    "value", [torch.zeros(2, 3, 8, 8), torch.zeros(2, 8, 8), torch.zeros(2, 8, 8).int()]
)
def test_other_shapes_are_refused(value: Tensor) -> None:
    with pytest.raises(DataError, match=r"'segmentation' must be .* of shape .*, got"):
        SpatialRescaler(4, 2)(value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "cubic"}, "'cubic' of 'segmentation' is none of nearest, bilinear"),
        ({"stages": -1}, "cannot be resized -1 times"),
        ({"bias": True}, "set out_channels"),
        ({"in_channels": 300}, "255 is one of 300 classes"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SpatialRescaler(**{"in_channels": 4, **options})


# -- images and masks


class FakeFirstStage(nn.Module):
    """Average pooling by 4 with a posterior of which every sample is far off."""

    downsampling_factor = 4

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(2.0))

    def encode(self, x: Tensor) -> DiagonalGaussian:
        mean = self.gain * F.avg_pool2d(x, 4)
        return DiagonalGaussian(torch.cat([mean, torch.full_like(mean, 10.0)], 1))


def test_small_image() -> None:
    value = torch.rand(2, 3, 4, 5)
    model = ConcatImage()
    assert model(value) is value
    assert (model.key, model.route, model.channels) == ("lr_image", "concat", 3)
    assert torch.equal(model.null(2, value), torch.zeros(2, 3, 4, 5))
    with pytest.raises(DataError, match=r"'lr_image' must be float of shape \(B, 3, any, any\)"):
        model(value[:, :1])


def test_masked_image_is_the_mode_without_gradient() -> None:
    value = torch.rand(2, 3, 8, 12, requires_grad=True)
    stage = FakeFirstStage()
    model = LatentImage()
    latents = model(value, stage)
    assert torch.equal(latents, 2 * F.avg_pool2d(value.detach(), 4))
    assert not latents.requires_grad
    assert torch.equal(model.null(2, value), torch.full((2, 3, 8, 12), -1.0))
    with pytest.raises(DataError, match=r"'masked_image' of 8 x 10 pixels: .* multiples of 4"):
        model(value[..., :10], stage)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.int64])
def test_mask_is_resized_by_the_nearest_pixel(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    value = (torch.rand(2, 1, 8, 12) > 0.5).to(dtype)
    model = ResizedMask()
    got = model(value, FakeFirstStage())
    assert torch.equal(got, value[:, :, ::4, ::4].float() * 2 - 1)
    assert model.null(1, value).dtype == dtype
    assert (model(model.null(2, value), FakeFirstStage()) == 1).all()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.full((1, 1, 8, 8), 0.5), "'mask' must be 0 .known. or 1 .* from 0.5 to 0.5"),
        (-torch.ones(1, 1, 8, 8), "from -1 to -1"),
        (torch.zeros(1, 3, 8, 8), r"'mask' must be float of shape \(B, 1, any, any\)"),
        (torch.zeros(1, 1, 8, 6), "'mask' of 8 x 6 pixels"),
    ],
)
def test_other_masks_are_refused(value: Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ResizedMask()(value, FakeFirstStage())
