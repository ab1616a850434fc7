from __future__ import annotations

import torch
from torch import Tensor, nn

from ldm.layers.basics import run


def test_the_function_runs_again_in_the_backward_pass_only_if_asked() -> None:
    calls = []

    def function(x: Tensor, _absent: None) -> Tensor:
        calls.append(x)
        return x.sin()

    for recompute, expected in ((False, 1), (True, 2)):
        calls.clear()
        x = torch.randn(3, requires_grad=True)
        run(function, x, None, recompute=recompute).sum().backward()
        assert len(calls) == expected
        torch.testing.assert_close(x.grad, x.cos())


def test_dropout_repeats_its_mask() -> None:
    x = torch.ones(1000, requires_grad=True)
    y = run(nn.Dropout(0.5), x, recompute=True)
    y.sum().backward()
    assert torch.equal(x.grad, y)


def test_without_gradients_nothing_is_recorded() -> None:
    with torch.no_grad():
        assert not run(nn.Linear(2, 2), torch.ones(1, 2), recompute=True).requires_grad
