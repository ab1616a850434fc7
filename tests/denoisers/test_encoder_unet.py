from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.denoisers.encoder_unet import POOLS, EncoderUNet
from ldm.denoisers.unet import UNet
from tests.parity import assert_close

SMALL: dict[str, Any] = {
    "in_channels": 4,
    "model_channels": 32,
    "out_channels": 7,
    "num_res_blocks": 1,
    "channel_mult": [1, 2],
    "attention_resolutions": [2],
    "image_size": 4,
}
LDM_8_G: dict[str, Any] = {
    "in_channels": 4,
    "model_channels": 256,
    "out_channels": 1000,
    "num_res_blocks": 2,
    "attention_resolutions": [4, 2, 1],
    "channel_mult": [1, 2, 4],
    "num_head_channels": 32,
    "image_size": 32,
}


def network(**options: Any) -> EncoderUNet:
    """A network whose zero-initialised layers are not zero any more."""
    torch.manual_seed(0)
    model = EncoderUNet(**{**SMALL, **options})
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    return model


def inputs(batch: int = 2, side: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 4, side, side, generator=generator)
    return x, torch.arange(batch) * 100


@pytest.mark.parametrize("pool", POOLS)
def test_pools_give_logits_that_depend_on_x_and_t(pool: str) -> None:
    model = network(pool=pool)
    x, t = inputs()
    y = model(x, t)
    assert y.shape == (2, 7)
    assert_close(model(x[1:], t[1:]), y[1:], rtol=1e-4)
    assert not torch.allclose(model(x, t + 300), y, atol=1e-4)
    assert not torch.allclose(model(x.flip(0), t), y, atol=1e-4)


@pytest.mark.parametrize("pool", POOLS)
def test_every_parameter_learns(pool: str) -> None:
    model = network(pool=pool)
    model(*inputs()).square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_the_classifier_of_ldm_8_g_has_the_published_number_of_parameters() -> None:
    """111.60 M, by which LDM-8-G (506 M) exceeds LDM-8 (395 M): the UNet's own settings."""
    with torch.device("meta"):
        model = EncoderUNet(**LDM_8_G)
    assert sum(p.numel() for p in model.parameters()) == 111_604_200
    width = LDM_8_G["model_channels"] * 4
    names = dict(model.named_parameters())
    assert names["out.2.positional_embedding"].shape == (width, 8 * 8 + 1)
    assert names["out.2.c_proj.weight"].shape == (1000, width, 1)


def test_names_below_the_head_are_those_of_the_unet() -> None:
    model = network()
    unet = UNet(4, 4, 32, 1, [2], [1, 2]).state_dict()
    body = {k: v.shape for k, v in model.state_dict().items() if not k.startswith("out.")}
    assert body == {
        key: value.shape
        for key, value in unet.items()
        if key.startswith(("time_embed.", "input_blocks.", "middle_block."))
    }


@pytest.mark.parametrize("pool", POOLS)
def test_body_and_head_against_the_unet(pool: str) -> None:
    """The body computes what the UNet, checked against golden numbers, does; the heads by hand."""
    model = network(pool=pool, use_scale_shift_norm=True, resblock_updown=True)
    unet = UNet(4, 4, 32, 1, [2], [1, 2], use_scale_shift_norm=True, resblock_updown=True)
    body = {k: v for k, v in model.state_dict().items() if not k.startswith("out.")}
    assert unet.load_state_dict(body, strict=False).unexpected_keys == []
    features: list[Tensor] = []
    for block in (*unet.input_blocks, unet.middle_block):
        block.register_forward_hook(lambda _module, _args, out: features.append(out))
    x, t = inputs()
    unet(x, t)
    norm, *rest = model.out
    if pool.startswith("spatial"):
        y = norm(torch.cat([f.mean((2, 3)) for f in features], dim=1))  # its first linear layer
        if pool == "spatial":
            y = y.relu()
        else:
            y = F.group_norm(y, 32, rest[0].weight, rest[0].bias)
            y = F.silu(y)
        y = rest[-1](y)
    else:
        y = F.silu(F.group_norm(features[-1], 32, norm.weight, norm.bias))
        y = rest[1](y) if pool == "attention" else rest[2](y.mean((2, 3), keepdim=True))[:, :, 0, 0]
    assert_close(model(x, t), y, rtol=1e-5)


@pytest.mark.parametrize(
    ("pool", "names"),
    [
        ("attention", ["0.bias", "0.weight", "2.c_proj.bias", "2.c_proj.weight"]),
        ("adaptive", ["0.bias", "0.weight", "3.bias", "3.weight"]),
        ("spatial", ["0.bias", "0.weight", "2.bias", "2.weight"]),
        ("spatial_v2", ["0.bias", "0.weight", "1.bias", "1.weight", "3.bias", "3.weight"]),
    ],
)
def test_names_of_the_head(pool: str, names: list[str]) -> None:
    model = network(pool=pool)
    found = sorted(k for k in model.out.state_dict() if "qkv" not in k and "position" not in k)
    assert found == names
    if pool.startswith("spatial"):  # 3 outputs of width 32 and 32, 32 down, 64; the middle's 64
        assert model.out[0].weight.shape == (2048, 32 + 32 + 32 + 64 + 64)


def test_mean_of_the_maps_is_any_size_and_attention_is_not() -> None:
    x, t = inputs(side=8)
    assert network(pool="adaptive")(x, t).shape == (2, 7)
    with pytest.raises(ValueError, match="feature maps of 2x2, got 4x4"):
        network()(x, t)


def test_a_new_adaptive_head_gives_even_odds() -> None:
    assert not EncoderUNet(**SMALL, pool="adaptive")(*inputs()).any()


def test_recomputation_changes_nothing() -> None:
    gradients = []
    for use_checkpoint in (False, True):
        model = network(use_checkpoint=use_checkpoint)
        model(*inputs()).square().sum().backward()
        gradients.append(model.input_blocks[1][0].in_layers[2].weight.grad)
    assert_close(gradients[0], gradients[1], rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool": "max"}, "unknown pool 'max'"),
        ({"channel_mult": [2, 4]}, "channel_mult must start with 1"),
        ({"image_size": None}, "needs image_size.* got None"),
        ({"image_size": 5}, "multiple of 2; got 5"),
        ({"num_head_channels": 48}, "48"),
    ],
)
def test_arguments_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EncoderUNet(**{**SMALL, **options})


def test_inputs_that_do_not_fit() -> None:
    model = network()
    x, t = inputs()
    with pytest.raises(ValueError, match=r"x must be \(B, 4, h, w\)"):
        model(x[:, :3], t)
    with pytest.raises(ValueError, match=r"t must have shape \(2,\)"):
        model(x, t[:1])


@torch.no_grad()
def test_any_size_is_continued_by_its_last_row_and_column() -> None:
    model, (x, t) = network(pool="adaptive"), inputs()
    continued = torch.cat([x[..., :3], x[..., 2:3]], dim=-1)
    assert torch.equal(model(x[..., :3], t), model(continued, t))
