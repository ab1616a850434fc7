from __future__ import annotations

import subprocess
import sys
from collections import deque
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.losses.adversarial import adaptive_weight


def losses(nll_slope: float, g_slope: float) -> tuple[Tensor, Tensor, Tensor]:
    layer = torch.ones(4, requires_grad=True)
    return nll_slope * layer.sum(), g_slope * layer.sum(), layer


def test_ratio_of_gradient_norms() -> None:
    weight, norm_nll, norm_g = adaptive_weight(*losses(3.0, 0.5))
    assert (norm_nll, norm_g) == (6.0, 1.0)
    assert weight.item() == pytest.approx(6.0 / (1.0 + 1e-4))
    assert not weight.requires_grad


def test_limits() -> None:
    assert adaptive_weight(*losses(1e6, 1e-9)).weight == 1e4
    assert adaptive_weight(*losses(1e6, 1e-9), max_weight=30.0).weight == 30
    assert adaptive_weight(*losses(0.0, 1.0)).weight == 0
    with torch.no_grad():
        assert adaptive_weight(*losses(1.0, 1.0)).weight == 0


@pytest.mark.parametrize(("nll", "g"), [(float("inf"), 1.0), (1.0, float("inf")), (2.0, 1e38)])
def test_a_norm_that_is_not_finite_cannot_be_overlooked(nll: float, g: float) -> None:
    """Neither as a weight of 0 nor as one at its limit."""
    weight, norm_nll, norm_g = adaptive_weight(*losses(nll, 10 * g))
    assert weight.isnan()
    assert norm_nll.isfinite() == (nll == 1.0 or nll == 2.0)
    assert norm_g.isfinite() == (g == 1.0)


def test_the_graph_survives() -> None:
    nll, g, layer = losses(3.0, 0.5)
    (nll + adaptive_weight(nll, g, layer).weight * g).backward()
    assert layer.grad is not None


def test_float32_norms_of_half_precision_weights() -> None:
    layer = torch.ones(4, dtype=torch.bfloat16, requires_grad=True)
    got = adaptive_weight(3 * layer.sum(), layer.sum(), layer)
    assert {value.dtype for value in got} == {torch.float32}


def test_float32_under_autocast() -> None:
    torch.manual_seed(0)
    x, net = torch.randn(8, 16), torch.nn.Linear(16, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = net(x)
        weight = adaptive_weight(y.square().sum(), y.mean(), net.weight).weight
    assert weight.dtype == torch.float32
    y = net(x)
    exact = adaptive_weight(y.square().sum(), y.mean(), net.weight).weight
    torch.testing.assert_close(weight, exact, rtol=0.02, atol=0)


def gradients_of(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Losses whose gradients differ in length and direction from one half batch to the other."""
    layer = torch.linspace(-1, 1, 18).reshape(2, 1, 3, 3).requires_grad_()
    y = F.conv2d(images, layer)
    return y.abs().sum() / len(images), -y.square().mean(), layer


BATCH = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
PROCESS = """
import sys
import torch
import torch.distributed as dist
from ldm.losses.adversarial import adaptive_weight
from tests.losses.test_adaptive import BATCH, gradients_of

rank = int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}/meet", rank=rank, world_size=2)
got = adaptive_weight(*gradients_of(BATCH.chunk(2)[rank]))
torch.save(torch.stack(got), f"{sys.argv[1]}/{rank}.pt")
dist.destroy_process_group()
"""


def test_two_processes_agree_with_one_of_the_whole_batch(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROCESS, str(tmp_path)]
    root = Path(__file__).parents[2]
    processes = [subprocess.Popen([*command, str(rank)], cwd=root) for rank in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    want = torch.stack(adaptive_weight(*gradients_of(BATCH)))
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), want)
    alone = [torch.stack(adaptive_weight(*gradients_of(half))) for half in BATCH.chunk(2)]
    assert not torch.allclose(torch.stack(alone).mean(0)[0], want[0], rtol=0.01)


def test_parts_of_a_batch_agree_with_the_whole() -> None:
    """Once a whole batch has been seen; a part alone says something else."""
    earlier: deque[Tensor] = deque(maxlen=4)
    for part in BATCH.chunk(4):
        got = adaptive_weight(*gradients_of(part), earlier=earlier)
    want = adaptive_weight(*gradients_of(BATCH))
    torch.testing.assert_close(torch.stack(got), torch.stack(want))
    alone = adaptive_weight(*gradients_of(BATCH[-1:]))
    assert not torch.allclose(alone.weight, want.weight, rtol=0.01)
    first = adaptive_weight(*gradients_of(BATCH[:1]), earlier=deque(maxlen=4))
    assert first == adaptive_weight(*gradients_of(BATCH[:1]))
    again = adaptive_weight(*gradients_of(BATCH[:1]), earlier=earlier)  # the oldest part leaves
    torch.testing.assert_close(torch.stack(again), torch.stack(want))
