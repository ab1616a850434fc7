from __future__ import annotations

import pytest
import torch

from ldm.autoencoders.networks import Architecture
from ldm.autoencoders.quantizer import VectorQuantizer
from ldm.autoencoders.vq import AutoencoderVQ
from tests.autoencoders.build import autoencoder
from tests.parity import assert_close, formula_weights, load_case


@pytest.mark.parametrize("name", ["ae_vq_attn", "ae_vq_noattn"])
def test_golden(name: str) -> None:
    case = load_case(name)
    model = autoencoder(case.config).eval()
    model.load_state_dict(case.weights)
    want = case.outputs
    x = case.inputs["x"].requires_grad_()
    z = model.encode(x).mode()
    assert_close(z, want["h"])
    output = model(x)
    assert_close(output.image, want["dec"])
    assert_close(output.image, want["forward_dec"])
    assert_close(output.codebook_loss, want["emb_loss"])
    assert_close(output.indices.reshape(want["indices"].shape), want["indices"])
    assert_close(output.posterior.mode(), want["h"])
    assert_close(model.quantize(z).z, want["quant"])
    ((output.image * case.inputs["cotangent"]).mean() + output.codebook_loss).backward()
    assert_close(x.grad, want["grad_x"])
    assert_close(model.quantize.embedding.weight.grad, want["grad_codebook"])

    with torch.no_grad():
        z = case.inputs["z"]
        assert_close(model.decode(z), want["iface_dec"])
        assert_close(model.decode(z, quantize=False), want["iface_dec_noquant"])
        quantized = model.quantize(z)
    assert_close(quantized.z, want["z_quant"])
    assert_close(quantized.indices.reshape(want["z_indices"].shape), want["z_indices"])


@torch.no_grad()
def test_official_size_golden() -> None:
    case = load_case("formula_ae_vq")
    model = autoencoder(case.config).eval()
    assert sum(p.numel() for p in model.parameters()) == case.config["parameters"]
    formula_weights(model, case.config["seed"])
    z = model.encode(case.inputs["x"]).mode()
    quantized = model.quantize(z)
    assert_close(z, case.outputs["h"])
    assert_close(quantized.indices.flatten(), case.outputs["indices"])
    assert_close(quantized.z, case.outputs["quant"])
    assert_close(quantized.loss, case.outputs["emb_loss"])
    assert_close(model.decode(z), case.outputs["dec"])
    assert_close(model.decode(z, quantize=False), case.outputs["dec_noquant"])


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_any_rectangle(levels: int) -> None:
    f = 2 ** (levels - 1)
    sizes = Architecture(
        channels=32, channel_mult=[1] * levels, num_res_blocks=1, mid_attention=False
    )
    model = AutoencoderVQ(sizes, embed_dim=3, quantizer=VectorQuantizer(8, 3))
    assert (model.downsampling_factor, model.latent_channels) == (f, 3)
    x = torch.randn(2, 3, 2 * f, 3 * f)
    output = model(x)
    assert output.image.shape == x.shape
    assert output.indices.shape == (2, 2, 3)
    assert torch.equal(output.posterior.kl(), torch.zeros(2))


def test_every_parameter_gets_a_gradient() -> None:
    sizes = Architecture(channels=32, channel_mult=[1, 2])
    model = AutoencoderVQ(sizes, embed_dim=4, quantizer=VectorQuantizer(4, 4))
    output = model(torch.randn(1, 3, 4, 6))
    ((output.image * torch.randn_like(output.image)).sum() + output.codebook_loss).backward()
    assert [k for k, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert model.last_layer is model.decoder.conv_out.weight


def test_codebook_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match="codes have 4 channels, latents 3"):
        AutoencoderVQ(Architecture(), embed_dim=3, quantizer=VectorQuantizer(8, 4))
