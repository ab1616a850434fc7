from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from ldm.training.tasks.base import unscale


def step(scale: float | None, fused: bool) -> tuple[Tensor, Tensor]:
    """The gradient seen when it is to be clipped, and the weight after the step."""
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = torch.optim.AdamW([weight], lr=0.1, eps=1.0, fused=fused)
    scaler = None if scale is None else torch.amp.GradScaler("cpu", init_scale=scale)
    loss = (weight**2).sum()
    (loss if scaler is None else scaler.scale(loss)).backward()
    if scaler is not None and not fused:
        scaler.unscale_(optimizer)  # Lightning does
    unscale(SimpleNamespace(precision_plugin=SimpleNamespace(scaler=scaler)), optimizer)
    assert weight.grad is not None
    seen = weight.grad.clone()
    weight.grad.mul_(0.5)  # clipped
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
    return seen, weight.detach()


@pytest.mark.parametrize("fused", [False, True])
def test_clipping_sees_the_true_gradients_and_so_does_the_step(fused: bool) -> None:
    gradient, weight = step(None, fused)
    assert gradient.tolist() == [2.0, -4.0]
    scaled_gradient, scaled_weight = step(1024.0, fused)
    assert torch.equal(scaled_gradient, gradient)
    torch.testing.assert_close(scaled_weight, weight)
