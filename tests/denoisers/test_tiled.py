from __future__ import annotations

import copy

import pytest
import torch

from ldm.denoisers.tiled import TiledDenoiser
from ldm.denoisers.unet import UNet
from ldm.layers.tiling import Tiling
from tests.denoisers.test_unet_golden import build
from tests.parity import assert_close, load_case


def network(**options: object) -> UNet:
    torch.manual_seed(0)
    settings: dict = {"in_channels": 3, "out_channels": 2, "model_channels": 32}
    settings |= {"num_res_blocks": 1, "channel_mult": [1, 2, 2], "attention_resolutions": [2]}
    model = UNet(**(settings | {"num_heads": 2} | options)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


@torch.no_grad()
def test_golden_patchwise() -> None:
    """The original's apply_model with split_input_params; the concatenated maps are cut along."""
    golden = load_case("unet_concat")
    split = golden.config["split_input_params"]
    overlap = [size - step for size, step in zip(split["ks"], split["stride"], strict=True)]
    inner = build(golden)
    weights = {k.removeprefix("diffusion_model."): v for k, v in golden.weights.items()}
    inner.load_state_dict({k: v for k, v in weights.items() if "id_predictor" not in k})
    model = TiledDenoiser(inner, Tiling(split["ks"], overlap))
    x = torch.cat([golden.inputs["patch.x"], golden.inputs["patch.c_concat"]], dim=1)
    assert_close(model(x, golden.inputs["patch.t"]), golden.outputs["patch.y"])


@torch.no_grad()
def test_one_tile_is_the_network_itself() -> None:
    inner = network()
    x, t = torch.randn(2, 3, 16, 8), torch.tensor([3, 700])
    assert torch.equal(TiledDenoiser(inner, Tiling(16, 4))(x, t), inner(x, t))
    assert not torch.allclose(TiledDenoiser(inner, Tiling(8, 4))(x, t), inner(x, t))


@torch.no_grad()
def test_conditions_reach_every_tile() -> None:
    inner = network(use_spatial_transformer=True, context_dim=5, num_classes=4)
    model, x, t = TiledDenoiser(inner, Tiling(8, 4)), torch.randn(1, 3, 20, 12), torch.tensor([5])
    context, y = torch.randn(1, 2, 5), torch.tensor([1])
    out = model(x, t, context=context, y=y)
    for other in (model(x, t, context=context + 1, y=y), model(x, t, context=context, y=y + 1)):
        assert ((other - out).abs().amax((0, 1)) > 0).all()


def test_it_looks_like_what_it_wraps() -> None:
    inner = network()
    model = TiledDenoiser(inner, Tiling(8))
    assert (model.in_channels, model.context_dim, model.downsampling_factor) == (3, None, 4)
    assert copy.deepcopy(model).in_channels == 3
    with pytest.raises(AttributeError):
        _ = model.nothing_of_the_kind


@torch.no_grad()
@pytest.mark.parametrize("sides", [(7, 9), (1, 1), (4, 6), (13, 8)])
def test_the_unet_takes_any_size(sides: tuple[int, int]) -> None:
    """Sides that the halvings do not divide are continued by their last row and column."""
    model, t = network(), torch.tensor([10])
    x = torch.randn(1, 3, *sides)
    height, width = (-(-side // 4) * 4 for side in sides)
    rows = torch.arange(height).clamp(max=sides[0] - 1)
    columns = torch.arange(width).clamp(max=sides[1] - 1)
    continued = x[:, :, rows][:, :, :, columns]
    out = model(x, t)
    assert out.shape == (1, 2, *sides)
    assert torch.equal(out, model(continued, t)[:, :, : sides[0], : sides[1]])
