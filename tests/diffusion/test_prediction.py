from __future__ import annotations

import pytest
import torch

from ldm.diffusion.prediction import X0, Eps, Prediction, V
from ldm.diffusion.schedule import NoiseSchedule
from tests.parity import assert_close

ALL = [Eps(), X0(), V()]
SCHEDULE = NoiseSchedule("linear", 100, 0.001, 0.05)
T = torch.tensor([1, 20, 60, 99])


def pair(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(seed))
    return draws[0], draws[1]


@pytest.mark.parametrize("prediction", ALL, ids=lambda p: type(p).__name__)
def test_a_perfect_network_gives_back_x0_and_noise(prediction: Prediction) -> None:
    x0, noise = pair()
    x_t = SCHEDULE.add_noise(x0, noise, T)
    target = prediction.target(x0, noise, T, SCHEDULE)
    got_x0, got_eps = prediction.to_x0_eps(target, x_t, T, SCHEDULE)
    assert_close(got_x0, x0, rtol=1e-5)
    assert_close(got_eps, noise, rtol=1e-5)


@pytest.mark.parametrize("prediction", ALL, ids=lambda p: type(p).__name__)
def test_estimates_are_consistent_with_x_t(prediction: Prediction) -> None:
    x_t, output = pair(1)
    x0, eps = prediction.to_x0_eps(output, x_t, T, SCHEDULE)
    assert_close(SCHEDULE.add_noise(x0, eps, T), x_t, rtol=1e-4)


@pytest.mark.parametrize("prediction", ALL, ids=lambda p: type(p).__name__)
def test_error_factor(prediction: Prediction) -> None:
    x_t, output = pair(2)
    wrong = output + 0.1 * pair(3)[0]
    errors = [
        (a - b).pow(2).flatten(1).sum(1)
        for a, b in (
            (
                prediction.to_x0_eps(output, x_t, T, SCHEDULE)[0],
                prediction.to_x0_eps(wrong, x_t, T, SCHEDULE)[0],
            ),
            (output, wrong),
        )
    ]
    assert_close(prediction.x0_error_factor(T, SCHEDULE) * errors[1], errors[0], rtol=1e-3)


@pytest.mark.parametrize("prediction", [Eps(), V()], ids=["Eps", "V"])
def test_elbo_weight_is_half_the_drop_of_the_snr(prediction: Prediction) -> None:
    a = SCHEDULE.exact_alphas_cumprod
    snr = a / (1 - a)
    want = 0.5 * (snr[T - 1] - snr[T]) * prediction.x0_error_factor(T, SCHEDULE)
    got = prediction.elbo_weight(T, SCHEDULE)
    torch.testing.assert_close(got, want.float(), rtol=1e-3, atol=0)


def test_elbo_weight_of_step_0_is_that_of_step_1() -> None:
    for prediction in ALL:
        first = prediction.elbo_weight(torch.tensor([0, 1]), SCHEDULE)
        assert first[0] == first[1]
