from __future__ import annotations

import pytest
import torch

from ldm.diffusion.loss_weighting import LogVariance, MinSNR, Uniform
from ldm.diffusion.prediction import X0, Eps, V
from ldm.diffusion.schedule import NoiseSchedule
from tests.parity import assert_close

SCHEDULE = NoiseSchedule("linear", 100, 0.001, 0.05)
T = torch.tensor([0, 30, 99])
LOSSES = torch.tensor([1.0, 2.0, 4.0])


def test_uniform() -> None:
    loss, logs = Uniform()(LOSSES, T, SCHEDULE, Eps())
    assert loss == LOSSES.mean()
    assert logs == {}


def test_log_variance_with_defaults_is_uniform() -> None:
    loss, logs = LogVariance(100)(LOSSES, T, SCHEDULE, Eps())
    assert_close(loss, LOSSES.mean(), rtol=1e-6)
    assert logs.keys() == {"loss_gamma", "loss_vlb", "logvar"}


def test_min_snr_formulas() -> None:
    """Table of Hang et al.: x0 min(snr, g), eps min(snr, g) / snr, v min(snr, g) / (snr + 1)."""
    a = SCHEDULE.exact_alphas_cumprod[T].float()
    snr = a / (1 - a)
    cut = snr.clamp(max=5.0)
    assert (cut != snr).any()
    assert (cut == snr).any()
    for prediction, weight in ((X0(), cut), (Eps(), cut / snr), (V(), cut / (snr + 1))):
        loss, _ = MinSNR(5.0)(LOSSES, T, SCHEDULE, prediction)
        assert_close(loss, (weight * LOSSES).mean(), rtol=1e-4)


@pytest.mark.parametrize("learn", [False, True])
def test_only_a_learned_log_variance_is_saved(learn: bool) -> None:
    weighting = LogVariance(100, init=0.3, learn=learn)
    assert list(weighting.state_dict()) == (["logvar"] if learn else [])
    assert len(list(weighting.parameters())) == int(learn)
