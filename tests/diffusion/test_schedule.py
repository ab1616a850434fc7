from __future__ import annotations

import math

import pytest
import torch

from ldm.diffusion.prediction import X0, Eps
from ldm.diffusion.schedule import KINDS, NoiseSchedule
from ldm.errors import ConfigError
from tests.parity import assert_close, load_case

NAMES = {
    "beta_schedule": "kind",
    "timesteps": "timesteps",
    "linear_start": "start",
    "linear_end": "end",
    "given_betas": "betas",
    "v_posterior": "v_posterior",
}
BUFFERS = load_case("schedule_buffers")
MATHS = load_case("diffusion_math")


def golden_schedule(name: str) -> NoiseSchedule:
    config = {k: v for k, v in BUFFERS.config[name].items() if k != "parameterization"}
    return NoiseSchedule(**{NAMES[k]: v for k, v in config.items()})


@pytest.mark.parametrize("name", sorted(BUFFERS.config))
def test_buffers_are_the_published_ones(name: str) -> None:
    schedule = golden_schedule(name)
    published = {
        key.removeprefix(f"{name}."): value
        for key, value in BUFFERS.outputs.items()
        if key.startswith(f"{name}.")
    }
    lvlb = published.pop("lvlb_weights")
    assert published.keys() == dict(schedule.named_buffers()).keys() - {"alphas"}
    for key, want in published.items():
        torch.testing.assert_close(getattr(schedule, key), want, rtol=1e-5, atol=0)
    x0 = BUFFERS.config[name].get("parameterization") == "x0"
    t = torch.arange(schedule.timesteps)
    got = (X0() if x0 else Eps()).elbo_weight(t, schedule)
    torch.testing.assert_close(got, lvlb, rtol=1e-5, atol=0)


def test_diffusion_maths() -> None:
    schedule = NoiseSchedule("linear", 1000, 0.0015, 0.0195)
    i, o = MATHS.inputs, MATHS.outputs
    t, x_t = i["t"], o["x_t"]
    mean, variance, logvar = schedule.marginal(i["x0"], t)
    post_mean, post_variance, post_logvar = schedule.posterior(i["x0_pred"], x_t, t)
    got = {
        "x_t": schedule.add_noise(i["x0"], i["noise"], t),
        "q_mean": mean,
        "q_var": variance,
        "q_logvar": logvar,
        "x0_from_eps": schedule.x0_from_eps(x_t, i["eps"], t),
        "eps_from_x0": schedule.eps_from_x0(x_t, i["x0_pred"], t),
        "posterior_mean": post_mean,
        "posterior_var": post_variance,
        "posterior_logvar": post_logvar,
        "prior_bpd": schedule.prior_bpd(i["x0"]),
    }
    assert got.keys() == o.keys()
    for key, want in o.items():
        bound = 2e-6 * want.abs().max().item()
        torch.testing.assert_close(got[key], want, rtol=1e-5, atol=bound, msg=key)


@pytest.mark.parametrize("kind", KINDS)
def test_noise_grows_with_time(kind: str) -> None:
    schedule = NoiseSchedule(kind, 50)
    t = torch.arange(50)
    assert (schedule.snr(t).diff() < 0).all()
    one = schedule.alpha(t, t) ** 2 + schedule.sigma(t, t) ** 2
    assert_close(one, torch.ones(50), rtol=1e-6)


def test_linear_is_linear_in_sqrt_beta() -> None:
    roots = NoiseSchedule("linear", 5, 0.01, 0.25).betas.sqrt()
    assert_close(roots, torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5]), rtol=1e-6)


@pytest.mark.parametrize("shape", [(4,), (4, 2), (4, 3, 8, 8), (4, 1, 2, 3, 5)])
def test_any_rank(shape: tuple[int, ...]) -> None:
    schedule = NoiseSchedule(timesteps=10)
    x0, noise, t = torch.randn(shape), torch.randn(shape), torch.tensor([0, 3, 7, 9])
    x_t = schedule.add_noise(x0, noise, t)
    assert x_t.shape == shape
    k = 2
    by_hand = schedule.alphas_cumprod[7] ** 0.5 * x0[k] + (
        (1 - schedule.alphas_cumprod[7]) ** 0.5 * noise[k]
    )
    assert_close(x_t[k], by_hand, rtol=1e-6)
    assert_close(schedule.x0_from_eps(x_t, noise, t), x0, rtol=1e-4)
    assert_close(schedule.eps_from_x0(x_t, x0, t), noise, rtol=1e-4)


def test_tables_keep_their_precision_and_stay_out_of_checkpoints() -> None:
    schedule = NoiseSchedule(timesteps=20)
    want = schedule.alphas_cumprod.clone()
    for cast in (schedule.half(), schedule.to(torch.bfloat16), schedule.double()):
        assert torch.equal(cast.alphas_cumprod, want)
    assert schedule.state_dict() == {}
    schedule.to("meta")
    assert schedule.betas.is_meta
    assert torch.equal(schedule.to_empty(device="cpu").alphas_cumprod, want)
    with torch.device("meta"):
        assert torch.equal(NoiseSchedule(timesteps=20).alphas_cumprod, want)


def test_exact_table_is_float64() -> None:
    schedule = NoiseSchedule(timesteps=20)
    assert schedule.exact_alphas_cumprod.dtype == torch.float64
    product = 1.0
    for k in range(20):
        product *= 1 - (0.01 + (math.sqrt(0.02) - 0.01) * k / 19) ** 2
    assert schedule.exact_alphas_cumprod[-1].item() == pytest.approx(product, rel=1e-13)
    assert_close(schedule.exact_alphas_cumprod.float(), schedule.alphas_cumprod, rtol=1e-7)


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "quadratic"},
        {"betas": [0.1, 1.0]},
        {"betas": [0.0, 0.1]},
        {"end": 1.5},
        {"v_posterior": 2.0},
        {"betas": []},
        {"timesteps": 0},
    ],
)
def test_errors(options: dict) -> None:
    with pytest.raises(ConfigError):
        NoiseSchedule(**options)
