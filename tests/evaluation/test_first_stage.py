from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ldm.autoencoders.base import DiagonalGaussian
from ldm.evaluation.first_stage import FirstStageStatistics, assess
from ldm.evaluation.latent_statistics import draw, kl_map
from ldm.evaluation.report import EvaluationReport

ABOUT = {"resolution": (16, 16), "data": "noise", "preprocessing": "none"}


def batch() -> tuple[Tensor, Tensor, DiagonalGaussian, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(6, 3, 16, 16, generator=generator) * 2 - 1
    moments = torch.randn(6, 4, 4, 4, generator=generator)
    indices = torch.randint(5, (6, 4, 4), generator=generator)
    return x, x * 0.9, DiagonalGaussian(moments), indices


def gathered(size: int, codes: int | None) -> FirstStageStatistics:
    x, y, posterior, indices = batch()
    statistics = FirstStageStatistics(4, 2, codes)
    z, kl = draw(posterior, range(6)), kl_map(posterior)
    assert kl is not None
    for part in zip(*(v.split(size) for v in (x, y, z, kl, indices)), strict=True):
        a, b, latents, nats, chosen = part
        statistics.update(a, b, latents, nats if codes is None else None, chosen)
    return statistics


@pytest.mark.parametrize("codes", [None, 8])
def test_the_report_names_what_was_measured_on_what(codes: int | None) -> None:
    report = EvaluationReport("x")
    gathered(6, codes).add_to(report, ABOUT | {"num_real": 6, "num_fake": 6})
    found = {m.name: m for m in report.measurements}
    common = {"psnr", "resampled_psnr", "ssim", "saturated", "scale_factor"}
    common |= {"latent_mean", "latent_std", "latent_min", "latent_max"}
    regularised = {"kl_per_dimension"} if codes is None else {"codes_used", "perplexity"}
    assert set(found) == common | regularised
    assert all((m.data, m.preprocessing) == ("noise", "none") for m in found.values())
    _, _, posterior, indices = batch()
    z = draw(posterior, range(6))
    assert found["latent_std"].value == pytest.approx(float(z.std()), rel=1e-6)
    assert found["scale_factor"].value == pytest.approx(1 / float(z.std()), rel=1e-6)
    assert found["latent_max"].per_channel == pytest.approx(z.amax((0, 2, 3)).tolist())
    if codes is None:
        want = float(posterior.kl().mean()) / z[0].numel()
        assert found["kl_per_dimension"].value == pytest.approx(want, rel=1e-5)
    else:
        share = indices.flatten().bincount().double() / indices.numel()
        assert found["codes_used"].value == 5
        assert found["codes_used"].note == "of 8 (62.5%), by 96 latents"
        want = float(torch.exp(-(share * share.log()).sum()))
        assert found["perplexity"].value == pytest.approx(want, rel=1e-5)


def test_facts_do_not_depend_on_the_batches() -> None:
    one, six = (vars(gathered(size, 8).facts(0.5)) for size in (1, 6))
    for name, value in one.items():
        assert value == pytest.approx(six[name]), name
    assert (one["tokens"], one["codes"], one["scale_factor"]) == (96, 8, 0.5)
    assert one["psnr"] > one["resampled_psnr"]


def test_latents_that_are_all_nan_end_in_a_verdict() -> None:
    x, y, posterior, _ = batch()
    statistics = FirstStageStatistics(4, 2)
    statistics.update(x, y * torch.nan, posterior.mean * torch.nan)
    report = EvaluationReport("x")
    statistics.add_to(report, ABOUT | {"num_real": 6, "num_fake": 6})
    values = {m.name: m.value for m in report.measurements}
    assert (values["nonfinite_images"], values["nonfinite_latents"]) == (6, 6)
    assert "latent_std" not in values
    readiness = assess(statistics.facts())
    assert readiness.verdict == "not ready"
    assert readiness.reasons[0].startswith("6 of 6 images have NaN")
