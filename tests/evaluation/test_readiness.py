"""A planted instance of every failure gives its reason; health gives none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ldm.evaluation.first_stage import CARE, NOT_READY, READY, FirstStageFacts, assess

KL = FirstStageFacts(
    images=500,
    nonfinite=0,
    mean=[0.1, -0.2, 0.0, 0.3],
    std=[0.9, 1.1, 1.0, 1.05],
    minimum=[-5.0, -6.0, -5.5, -5.0],
    maximum=[5.0, 5.5, 5.0, 6.0],
    overall_std=1.03,
    kl=[5.1, 6.2, 4.8, 5.5],
    psnr=25.0,
    resampled_psnr=21.0,
    saturated=0.03,
    saturated_originals=0.025,
)
VQ = replace(KL, kl=None, codes=256, codes_used=250, perplexity=180.0, tokens=500 * 64)


# Per-channel numbers in public code that normalises the latents of Stable Diffusion's KL f = 8.
PUBLISHED = replace(
    KL,
    mean=[5.81, 3.25, 0.12, -2.15],
    std=[4.17, 4.62, 3.71, 3.28],
    minimum=[-20.0] * 4,
    maximum=[25.0] * 4,
    overall_std=5.49,
    scale_factor=0.18215,
)


@pytest.mark.parametrize("facts", [KL, VQ, replace(KL, resampled_psnr=None), PUBLISHED])
def test_healthy_numbers_are_ready(facts: FirstStageFacts) -> None:
    assert assess(facts).verdict == READY
    assert assess(facts).reasons == ()


@pytest.mark.parametrize(
    ("facts", "verdict", "parts"),
    [
        (
            replace(KL, std=[4.9, 5.3, 5.1, 5.0], overall_std=5.49),
            CARE,
            ["deviation is 5.49, unscaled", "model.params.scale_factor: 0.1821", "or null"],
        ),
        (
            replace(VQ, std=[0.04, 0.05, 0.05, 0.04], mean=[0.0] * 4, minimum=[-0.2] * 4,
                    maximum=[0.2] * 4, overall_std=0.05),
            CARE,
            ["deviation is 0.05, unscaled", "scale_factor: 20 "],
        ),
        (
            replace(KL, scale_factor=5.0),
            CARE,
            ["deviation is 1.03, scaled by 5,", "scale_factor: 0.9709"],
        ),
        (replace(KL, kl=[5.0, 0.001, 6.0, 5.0]), CARE, ["channel 1 of 4 dead, with a KL", "0.001"]),
        (replace(KL, kl=[0.01] * 4), NOT_READY, ["4 channels (0, 1, 2, 3) of 4 dead", "collapse"]),
        (
            replace(VQ, std=[1.0, 0.001, 1.1, 1.0], mean=[0.0] * 4, minimum=[-5, -0.003, -5, -5],
                    maximum=[5, 0.003, 5, 5]),
            CARE,
            ["channel 1 of 4 dead, with a standard deviation of 0.001", "embed_dim"],
        ),
        (
            replace(KL, std=[1.0, 12.0, 1.1, 0.9], maximum=[5.0, 60, 5, 5], overall_std=1.5),
            CARE,
            ["channel 1 dominates", "12", "kl_weight"],
        ),
        (
            replace(KL, mean=[0.1, 2.5, 0.0, 0.0]),
            CARE,
            ["channel 1 is off centre", "mean is 2.5", "1.1", "cast of colour"],
        ),
        (
            replace(KL, maximum=[5.0, 5.0, 55.0, 5.0]),
            CARE,
            ["channel 2 has outliers", "-5.5 to 55"],
        ),
        (replace(VQ, codes_used=20, perplexity=15.0), CARE, ["236 of 256 codes are dead", "7.8%"]),
        (
            replace(VQ, codes_used=3, perplexity=1.7),
            NOT_READY,
            ["perplexity of the codes is 1.7 of 256", "collapsed", "restart_after"],
        ),
        (
            replace(VQ, codes=8192, codes_used=300, perplexity=200.0, tokens=2000),
            CARE,
            ["300 of 8192 codes", "2000 latents are too few", "measure more"],
        ),
        (
            replace(KL, std=[1.0, 0.0067, 1.1, 1.0], kl=[5.0, 4.5, 5.0, 5.0], mean=[0.0] * 4,
                    minimum=[-5, -0.02, -5, -5], maximum=[5, 0.02, 5, 5]),
            CARE,
            ["channel 1 of 4 dead, with a standard deviation of 0.0067"],
        ),
        (replace(KL, saturated=0.9, saturated_originals=0.9), CARE, ["90.0%", "value_range"]),
        (replace(KL, saturated=0.12), CARE, ["12.0% of the output values", "2.5%", "[-1, 1]"]),
        (replace(KL, saturated=0.5), NOT_READY, ["50.0% of the output values"]),
        (replace(KL, psnr=20.0), CARE, ["20.0 dB is below the 21.0 dB", "disc_weight"]),
        (replace(KL, psnr=12.0), NOT_READY, ["12.0 dB is below the 21.0 dB"]),
        (replace(KL, nonfinite=3), NOT_READY, ["3 of 500 images have NaN", "bfloat16"]),
        (replace(KL, images=5), CARE, ["only 5 images"]),
        (
            replace(VQ, std=[0.0] * 4, mean=[0.1] * 4, minimum=[0.1] * 4, maximum=[0.1] * 4,
                    overall_std=0.0),
            NOT_READY,
            ["do not vary at all"],
        ),
    ],
)  # fmt: skip
def test_each_failure_gives_its_reason(
    facts: FirstStageFacts, verdict: str, parts: list[str]
) -> None:
    got = assess(facts)
    assert got.verdict == verdict
    assert any(all(part in reason for part in parts) for reason in got.reasons), got.reasons
    if verdict == CARE:
        assert len(got.reasons) == 1


def test_a_factor_that_fits_the_latents_is_no_reason() -> None:
    scaled = replace(KL, std=[4.9, 5.3, 5.1, 5.0], overall_std=5.1, scale_factor=0.18215)
    assert assess(scaled).verdict == READY


def test_a_small_codebook_that_is_all_used_has_not_collapsed() -> None:
    assert assess(replace(VQ, codes=4, codes_used=4, perplexity=3.5)).verdict == READY


def test_the_gravest_reason_comes_first() -> None:
    got = assess(replace(KL, psnr=20.0, nonfinite=1, saturated=0.5))
    assert got.verdict == NOT_READY
    assert [reason.split()[0] for reason in got.reasons] == ["1", "50.0%", "the"]
