from __future__ import annotations

import pytest
import torch

from ldm.autoencoders.base import Deterministic, DiagonalGaussian
from tests.parity import assert_close, load_case

CASE = load_case("diagonal_gaussian")


@pytest.mark.parametrize("name", ["mean", "logvar", "std", "var"])
def test_golden_attributes(name: str) -> None:
    posterior = DiagonalGaussian(CASE.inputs["parameters"])
    assert_close(getattr(posterior, name), CASE.outputs[name], rtol=1e-6)
    assert_close(posterior.mode(), CASE.outputs["mode"], rtol=1e-6)


def test_golden_divergences_and_likelihood() -> None:
    a, b, c = (DiagonalGaussian(CASE.inputs[f"parameters{i}"]) for i in ("", "_b", "_c"))
    assert_close(b.kl(), CASE.outputs["kl"], rtol=1e-6)
    assert_close(a.kl(), CASE.outputs["kl_clamped"], rtol=1e-6)
    assert_close(b.kl(c), CASE.outputs["kl_other"], rtol=1e-6)
    assert_close(b.nll(CASE.inputs["x"]), CASE.outputs["nll"], rtol=1e-6)


def test_golden_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "randn", lambda *_, **__: CASE.inputs["noise"])
    sample = DiagonalGaussian(CASE.inputs["parameters"]).sample()
    assert_close(sample, CASE.outputs["sample"], rtol=1e-6)


def test_sample_has_the_moments_and_repeats_with_its_generator() -> None:
    moments = torch.cat([torch.full((1, 1, 200, 200), 3.0), torch.full((1, 1, 200, 200), 1.0)], 1)
    posterior = DiagonalGaussian(moments)
    first = posterior.sample(torch.Generator().manual_seed(0))
    assert torch.equal(first, posterior.sample(torch.Generator().manual_seed(0)))
    assert not torch.equal(first, posterior.sample(torch.Generator().manual_seed(1)))
    assert first.mean().item() == pytest.approx(3.0, abs=0.03)
    assert first.std().item() == pytest.approx(torch.e**0.5, abs=0.03)


def test_divergence_from_itself_is_zero() -> None:
    posterior = DiagonalGaussian(CASE.inputs["parameters_b"])
    torch.testing.assert_close(posterior.kl(posterior), torch.zeros(2), rtol=0, atol=1e-5)


def test_half_precision_moments_are_summed_in_float32() -> None:
    moments = torch.randn(1, 8, 64, 64).bfloat16()
    posterior = DiagonalGaussian(moments)
    assert posterior.sample().dtype == torch.bfloat16
    assert posterior.kl().dtype == torch.float32
    torch.testing.assert_close(posterior.kl(), DiagonalGaussian(moments.float()).kl())


def test_deterministic() -> None:
    z = torch.randn(3, 4, 2, 2)
    posterior = Deterministic(z)
    assert posterior.sample() is z
    assert posterior.mode() is z
    assert torch.equal(posterior.kl(), torch.zeros(3))


def test_odd_moments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(B, 2C, h, w\), got \(1, 3, 2, 2\)"):
        DiagonalGaussian(torch.zeros(1, 3, 2, 2))
