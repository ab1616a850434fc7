"""Time of an optimiser step and of averaging the weights, beside torch's default and diffusers.

Gradients are given and nothing else is computed. Ours is what the configs ask for: AdamW with
fused=true and one _foreach call for all averages. Beside it torch.optim.AdamW with its defaults
and diffusers' EMAModel (with its default, and with foreach=True).

Examples:
  python benchmarks/optimizer_ema.py
  python benchmarks/optimizer_ema.py --channels 192 --device cuda
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from _measure import alternate, begin, heading, parser, rows
from _peers import unets
from diffusers.training_utils import EMAModel
from torch import nn

from ldm.training.callbacks.ema import EMA


def main() -> None:
    """Time the steps in turns and print a table in Markdown."""
    options = parser(__doc__, repeats=15)
    options.add_argument("--channels", type=int, nargs="+", default=[64, 128])
    arguments = options.parse_args()
    begin(arguments, "AdamW and the average of the weights")
    print(heading(["M parameters"]))
    for channels in arguments.channels:
        network, _ = unets(channels, arguments.device)
        for parameter in network.parameters():
            parameter.grad = torch.randn_like(parameter) * 1e-3
        millions = f"{sum(p.numel() for p in network.parameters()) / 1e6:.1f}"
        times = alternate(_steps(network), arguments.repeats, arguments.device)
        print("\n".join(rows([millions], times, "ldm", arguments.device)), flush=True)


def _steps(network: nn.Module) -> dict[str, Callable[[], object]]:
    ours, peer, foreach = (_with_gradients(network) for _ in range(3))
    return {
        "ldm": _ours(ours),
        "AdamW() + EMAModel()": _peer(peer, False),
        "AdamW() + EMAModel(foreach=True)": _peer(foreach, True),
    }


def _with_gradients(network: nn.Module) -> nn.Module:
    result = copy.deepcopy(network)
    for mine, theirs in zip(result.parameters(), network.parameters(), strict=True):
        mine.grad = None if theirs.grad is None else theirs.grad.clone()
    return result


def _ours(network: nn.Module) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    average = EMA(network)

    def step() -> None:
        optimizer.step()
        average.update(network)

    return step


def _peer(network: nn.Module, foreach: bool) -> Callable[[], None]:
    parameters: Iterable[Any] = list(network.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    average = EMAModel(parameters, decay=0.9999, foreach=foreach)

    def step() -> None:
        optimizer.step()
        average.step(parameters)

    return step


if __name__ == "__main__":
    main()
