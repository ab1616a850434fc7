from __future__ import annotations

import pytest
import torch

from ldm.losses.gan import disc_factor, hinge_d_loss, vanilla_d_loss
from tests.parity import assert_close, load_case

CASE = load_case("gan_losses")


@pytest.mark.parametrize(("name", "loss"), [("hinge", hinge_d_loss), ("vanilla", vanilla_d_loss)])
def test_discriminator_losses(name: str, loss) -> None:
    assert_close(loss(CASE.inputs["real"], CASE.inputs["fake"]), CASE.outputs[name], rtol=1e-6)


def test_disc_factor() -> None:
    got = [disc_factor(step, 10, 0.8) for step in CASE.inputs["steps"].tolist()]
    assert_close(torch.tensor(got), CASE.outputs["adopt_weight"], rtol=1e-6)
