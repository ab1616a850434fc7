from __future__ import annotations

import pytest
import torch

from ldm.autoencoders.kl import AutoencoderKL
from ldm.autoencoders.networks import Architecture
from tests.autoencoders.build import autoencoder
from tests.parity import assert_close, formula_weights, load_case


@pytest.mark.parametrize("name", ["ae_kl_attn", "ae_kl_noattn"])
def test_golden(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = load_case(name)
    model = autoencoder(case.config).eval()
    model.load_state_dict(case.weights)
    i, want = case.inputs, case.outputs
    x = i["x"].requires_grad_()
    assert_close(model.encoder(x), want["h"])
    posterior = model.encode(x)
    for attribute in ("mean", "logvar", "std"):
        assert_close(getattr(posterior, attribute), want[attribute], what=attribute)
    assert_close(posterior.kl(), want["kl"])
    image = model.decode(posterior.mode())
    assert_close(image, want["dec_mode"])
    (image * i["cotangent"]).sum().backward()
    assert_close(x.grad, want["grad_x"], what="grad_x")

    with torch.no_grad():
        for suffix in ("_small", "_odd"):
            if f"x{suffix}" in i:
                moments = model.quant_conv(model.encoder(i[f"x{suffix}"]))
                assert_close(moments, want[f"moments{suffix}"], what=suffix)
        assert_close(model.decode(i["z"]), want["dec_z"])
        assert_close(model.decode(i["z_small"]), want["dec_z_small"])
        monkeypatch.setattr(torch, "randn", lambda *_, **__: i["noise"])
        assert_close(posterior.sample(), want["sample"])


@torch.no_grad()
def test_official_size_golden() -> None:
    case = load_case("formula_ae_kl")
    model = autoencoder(case.config).eval()
    assert sum(p.numel() for p in model.parameters()) == case.config["parameters"]
    formula_weights(model, case.config["seed"])
    moments = model.quant_conv(model.encoder(case.inputs["x"]))
    assert_close(moments, case.outputs["moments"])
    assert_close(model.decode(moments[:, :4]), case.outputs["dec_mode"])
    assert_close(model.decode(case.inputs["z"]), case.outputs["dec_z"])
    small = model.quant_conv(model.encoder(case.inputs["x_small"]))
    assert_close(small, case.outputs["moments_small"])


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_any_rectangle_and_channel_count(levels: int, channels: int) -> None:
    f = 2 ** (levels - 1)
    sizes = Architecture(
        in_channels=channels,
        channels=32,
        channel_mult=[1] * levels,
        num_res_blocks=1,
        z_channels=2,
        mid_attention=False,
    )
    model = AutoencoderKL(sizes, embed_dim=5)
    assert (model.downsampling_factor, model.latent_channels) == (f, 5)
    x = torch.randn(2, channels, 3 * f, 2 * f)
    output = model(x)
    assert output.image.shape == x.shape
    assert output.posterior.mode().shape == (2, 5, 3, 2)
    assert output.codebook_loss is None
    assert output.indices is None


def test_forward_draws_with_its_generator() -> None:
    model = AutoencoderKL(Architecture(channels=32, channel_mult=[1]), embed_dim=2).eval()
    x = torch.randn(1, 3, 4, 4)
    images = [model(x, torch.Generator().manual_seed(seed)).image for seed in (0, 0, 1)]
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])


def test_every_parameter_gets_a_gradient() -> None:
    sizes = Architecture(channels=32, channel_mult=[1, 2], attn_resolutions=[128])
    model = AutoencoderKL(sizes, embed_dim=4)
    image = model(torch.randn(1, 3, 4, 6)).image
    (image * torch.randn_like(image)).sum().backward()
    assert [k for k, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert model.last_layer is model.decoder.conv_out.weight
