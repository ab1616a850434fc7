from __future__ import annotations

import pytest
import torch

from ldm.errors import ConfigError
from ldm.losses.adversarial import (
    Adversarial,
    disc_factor,
    hinge_d_loss,
    r1_penalty,
    vanilla_d_loss,
)
from tests.parity import assert_close, load_case

CASE = load_case("gan_losses")


@pytest.mark.parametrize(("name", "loss"), [("hinge", hinge_d_loss), ("vanilla", vanilla_d_loss)])
def test_discriminator_losses(name: str, loss) -> None:
    assert_close(loss(CASE.inputs["real"], CASE.inputs["fake"]), CASE.outputs[name], rtol=1e-6)


def test_disc_factor() -> None:
    got = [disc_factor(step, 10, 0.8) for step in CASE.inputs["steps"].tolist()]
    assert_close(torch.tensor(got), CASE.outputs["adopt_weight"], rtol=1e-6)


def test_warmup_is_a_line() -> None:
    got = [disc_factor(step, 10, 0.8, warmup=4) for step in (9, 10, 11, 13, 14, 99)]
    assert got == pytest.approx([0.0, 0.0, 0.2, 0.6, 0.8, 0.8])


def test_who_takes_part_when() -> None:
    settings = Adversarial(disc_start=10, disc_weight=0.5, disc_factor=0.8, disc_warmup=4)
    assert [settings.active(step) for step in (0, 9, 10, 11)] == [False, False, True, True]
    assert [settings.factor(step) for step in (9, 10, 11)] == [0.0, 0.8, 0.8]
    assert [settings.generator_factor(step) for step in (9, 10, 12, 14)] == [0.0, 0.0, 0.4, 0.8]
    assert not Adversarial(disc_start=0, disc_weight=0.5, disc_factor=0.0).active(99)


def test_penalty_is_due_from_the_start_on_in_every_nth_step() -> None:
    settings = Adversarial(disc_start=3, disc_weight=0.5, r1_weight=2.0, r1_every=4)
    assert [step for step in range(16) if settings.penalises(step)] == [3, 7, 11, 15]
    without = Adversarial(disc_start=3, disc_weight=0.5, r1_every=1)
    assert not any(without.penalises(step) for step in range(16))


def test_r1_of_a_linear_discriminator() -> None:
    """D(x) = mean over patches of w . patch: its gradient is w / patches at every pixel."""
    x = torch.randn(3, 2, 4, 4, requires_grad=True)
    w = torch.tensor([0.5, -2.0], requires_grad=True)
    logits = torch.einsum("bchw,c->bhw", x, w)
    penalty = r1_penalty(x, logits)
    patches = 16
    assert penalty.item() == pytest.approx((0.25 + 4.0) * 16 / patches**2)
    penalty.backward()
    assert w.grad is not None
    torch.testing.assert_close(w.grad, 2 * w.detach() * 16 / patches**2)


def test_r1_is_a_mean_over_images() -> None:
    """D(x) = |x|^2 / 2 has the gradient x, which differs from image to image."""
    x = torch.randn(5, 1, 3, 3, requires_grad=True)
    logits = 0.5 * x.flatten(1).square().sum(1)
    assert r1_penalty(x, logits).item() == pytest.approx(x.square().sum().item() / 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"disc_loss": "wgan"}, "unknown disc_loss 'wgan': choose hinge or vanilla"),
        ({"disc_warmup": -1}, "disc_warmup must be 0 or more, got -1"),
        ({"max_weight": -1.0}, r"max_weight must be 0 or more, got -1\.0"),
        ({"r1_weight": -0.5}, r"r1_weight must be 0 or more, got -0\.5"),
        ({"r1_every": 0}, "r1_every must be 1 or more, got 0"),
    ],
)
def test_errors(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Adversarial(disc_start=0, disc_weight=1.0, **changes)
