from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ldm.layers.convolution import Conv3x3
from ldm.training.callbacks.flops import FlopCount, peak_flops, peak_of


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.conv(x).flatten(2).transpose(1, 2))


def test_forward_and_backward_are_counted_as_torch_counts_them() -> None:
    net, x = Net(), torch.randn(2, 3, 4, 4)
    with FlopCount() as count:
        net(x).sum().backward()
    with FlopCounterMode(display=False) as reference:
        net(x).sum().backward()
    conv, linear = 2 * 32 * 27 * 8, 2 * 32 * 8 * 8
    assert count.total == reference.get_total_flops()
    assert count.total == 2 * conv + 3 * linear  # no gradient of the images


def test_attention_on_a_cpu_is_counted() -> None:
    q = torch.randn(2, 3, 5, 8, requires_grad=True)
    k, v = torch.randn(2, 3, 7, 8), torch.randn(2, 3, 7, 8)
    with FlopCount() as count:
        out = nn.functional.scaled_dot_product_attention(q, k, v)
    product = 2 * 2 * 3 * 5 * 7 * 8
    assert count.total == 2 * product
    with FlopCount() as count:
        out.sum().backward()
    assert count.total == 5 * product  # the scores once more, and two products for each


def test_counting_does_not_change_a_bit() -> None:
    gradients = []
    for counted in (True, False):
        torch.manual_seed(0)
        net, x = Net(), torch.randn(2, 3, 4, 4)
        drop = nn.Dropout(0.5)
        with FlopCount() if counted else torch.enable_grad():
            y = drop(net(x))
            nn.functional.scaled_dot_product_attention(y, y, y).square().sum().backward()
        gradients.append([p.grad for p in net.parameters()])
    for a, b in zip(*gradients, strict=True):
        assert a is not None
        assert b is not None
        assert torch.equal(a, b)


def test_compiled_networks_are_counted_and_compiled_after_that() -> None:
    graphs = []

    def backend(graph: Any, _inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    net, x = Net(), torch.randn(2, 3, 4, 4)
    net.compile(backend=backend)
    with FlopCount() as count:
        net(x)
    assert count.total == 2 * 32 * 27 * 8 + 2 * 32 * 8 * 8
    assert graphs == []
    net(x)
    assert len(graphs) == 1


@pytest.mark.parametrize(
    ("name", "precision", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16-mixed", 989),
        ("NVIDIA H100 PCIe", "16-mixed", 756),
        ("NVIDIA H200", "bf16-true", 989),
        ("NVIDIA A100-SXM4-80GB", "bf16-mixed", 312),
        ("NVIDIA A100-PCIE-40GB", "32-true", 156),
        ("Tesla V100-SXM2-16GB", "16-mixed", 125),
        ("Tesla T4", "16-mixed", 65),
        ("NVIDIA L40S", "bf16-mixed", 362),
        ("NVIDIA GeForce RTX 4090", "bf16-mixed", 165),
    ],
)
def test_peaks_of_cards_by_their_names(name: str, precision: str, tera: float) -> None:
    assert peak_of(name, precision, tf32=True) == tera * 1e12


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16-mixed"),
        ("NVIDIA GeForce RTX 4090 D", "bf16-mixed"),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "bf16-mixed"),
        ("Tesla V100-SXM2-16GB", "bf16-mixed"),  # it has no such units
        ("NVIDIA A100-SXM4-80GB", "64-true"),
        ("Abacus", "32-true"),
    ],
)
def test_no_peak_is_guessed(name: str, precision: str) -> None:
    assert peak_of(name, precision, tf32=True) is None


def test_full_precision_is_judged_by_what_may_compute_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert peak_of("NVIDIA A100-SXM4-80GB", "32-true", tf32=False) == 19.5e12
    assert peak_flops(torch.device("cpu"), "32-true") is None
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "NVIDIA A100-SXM4-80GB")
    settings: Any = torch.backends.cudnn
    monkeypatch.setattr(settings, "allow_tf32", True)
    assert peak_flops(torch.device("cuda"), "32-true") == 156e12


def test_convolutions_count_by_their_definition() -> None:
    layer, x = Conv3x3(128, 128), torch.randn(1, 128, 32, 32)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    with FlopCount() as count:
        layer(x).sum().backward()
    assert count.total == 3 * 2 * 9 * 128 * 128 * 32 * 32
