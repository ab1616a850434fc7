from __future__ import annotations

import pytest
import torch

from ldm.autoencoders import quantizer
from ldm.autoencoders.quantizer import VectorQuantizer
from tests.parity import assert_close, load_case

CASE = load_case("vector_quantizer")


def golden(legacy_beta: bool = True) -> VectorQuantizer:
    layer = VectorQuantizer(CASE.config["n_e"], CASE.config["e_dim"], legacy_beta=legacy_beta)
    layer.load_state_dict(CASE.weights)
    return layer


@pytest.mark.parametrize("variant", ["legacy", "fixed"])
def test_golden(variant: str) -> None:
    layer = golden(legacy_beta=variant == "legacy")
    want = {k.removeprefix(f"{variant}."): v for k, v in CASE.outputs.items()}
    z = CASE.inputs["z"].requires_grad_()
    quantized = layer(z)
    assert_close(quantized.z, want["zq"])
    assert_close(quantized.loss, want["loss"])
    assert_close(quantized.indices, CASE.outputs["sane.indices"])
    assert_close(quantized.indices.flatten(), want["indices"])
    gradients = torch.autograd.grad(quantized.loss, [z, layer.embedding.weight])
    assert_close(gradients[0], want["grad_loss_z"])
    assert_close(gradients[1], want["grad_loss_codebook"])
    straight = torch.autograd.grad((layer(z).z * CASE.inputs["cotangent"]).sum(), z)[0]
    assert_close(straight, want["grad_straight_through"])


def test_golden_lookup() -> None:
    indices = CASE.inputs["query_indices"].view(2, 4, 5)
    assert_close(golden().lookup(indices), CASE.outputs["codebook_entry"])


def test_new_codes_are_uniform_and_small() -> None:
    codes = VectorQuantizer(200, 4).embedding.weight
    assert codes.abs().max() <= 1 / 200
    assert codes.abs().max() > 0.9 / 200


def test_codes_quantise_to_themselves() -> None:
    layer = VectorQuantizer(50, 3)
    indices = torch.arange(50).view(1, 5, 10)
    quantized = layer(layer.lookup(indices))
    assert torch.equal(quantized.indices, indices)
    assert quantized.loss.item() == 0.0


def test_chunks_agree_with_the_full_distance_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = VectorQuantizer(40, 3)
    z = torch.randn(2, 3, 7, 5) / 40
    want = torch.cdist(z.movedim(1, -1).reshape(-1, 3), layer.embedding.weight).argmin(1)
    assert torch.equal(layer.nearest(z).flatten(), want)
    monkeypatch.setattr(quantizer, "MAX_DISTANCES_CPU", 40 * 9)
    assert torch.equal(layer.nearest(z).flatten(), want)


def test_mixed_precision_chooses_the_same_codes() -> None:
    layer = VectorQuantizer(1000, 4)
    z = torch.randn(1, 4, 16, 16) / 1000
    want = layer(z)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = layer(z)
    assert torch.equal(got.indices, want.indices)
    assert got.loss.dtype == torch.float32
    assert torch.equal(got.loss, want.loss)


def test_other_widths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(B, 3, h, w\), got \(1, 4, 2, 2\)"):
        golden()(torch.zeros(1, 4, 2, 2))


def test_codes_far_from_zero_are_told_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    layer = VectorQuantizer(500, 4)
    with torch.no_grad():
        layer.embedding.weight.copy_(torch.randn(500, 4, generator=generator) + 3000)
    z = torch.randn(2, 4, 16, 16, generator=generator) + 3000
    tokens = z.movedim(1, -1).reshape(-1, 4).double()
    want = torch.cdist(tokens, layer.embedding.weight.double()).argmin(1)
    assert (layer.nearest(z).flatten() == want).float().mean() > 0.998
