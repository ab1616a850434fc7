r"""Time and peak memory of a whole training step of a UNet, beside diffusers.

Both predict the noise of the same noisy latents, with the same weights at the start: forward and
backward pass, AdamW, average of the weights. Ours as the configs ask for it (channels_last,
fused AdamW, one _foreach call for the average); diffusers' network as it comes, with
torch.optim.AdamW and EMAModel and their defaults. Peak memory is that of a process of its own,
above what it held before the network was made.

Examples:
  python benchmarks/training_step.py
  python benchmarks/training_step.py --channels 192 --batch 32 --device cuda --precision bf16 \
      --compile
  python benchmarks/training_step.py --checkpointing          both recompute activations
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from _measure import MB, alternate, begin, heading, parser, peak_memory, precision, rows
from _peers import CONTEXT, LATENTS, TOKENS, unets
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from ldm.layers.compile import compile_networks
from ldm.training.callbacks.ema import EMA

NAMES = ("ldm", "diffusers", "diffusers, channels_last")


def main() -> None:
    """Time the steps in turns, measure memory one by one, and print two tables in Markdown."""
    options = parser(__doc__, repeats=7)
    options.add_argument("--channels", type=int, nargs="+", default=[64, 128])
    options.add_argument("--batch", type=int, nargs="+", default=[4])
    options.add_argument("--side", type=int, default=32, help="height and width of the latents")
    options.add_argument("--checkpointing", action="store_true", help="recompute activations")
    options.add_argument("--only", help=argparse.SUPPRESS)
    arguments = options.parse_args()
    if arguments.only:
        print(json.dumps(_peak(arguments)))
        return
    begin(arguments, f"Training step of a UNet, {arguments.side}x{arguments.side} latents")
    names = [*NAMES, *(("ldm, compiled", "diffusers, compiled") if arguments.compile else ())]
    print(heading(["channels", "batch"], ["peak MB"]))
    for channels in arguments.channels:
        for batch in arguments.batch:
            steps = {name: _step(name, channels, batch, arguments) for name in names}
            times = alternate(steps, arguments.repeats, arguments.device)
            lines = rows([channels, batch], times, "ldm", arguments.device)
            for line, name in zip(lines, names, strict=True):
                print(f"{line} {_peak_elsewhere(name, channels, batch):.0f} |", flush=True)


def _step(
    name: str, channels: int, batch: int, arguments: argparse.Namespace
) -> Callable[[], None]:
    device = arguments.device
    torch.manual_seed(0)
    ours, peer = unets(channels, device)
    if name.startswith("ldm"):
        network: Any = ours
        for module in network.modules() if arguments.checkpointing else ():
            if hasattr(module, "use_checkpoint"):
                module.use_checkpoint = True
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
        average = EMA(network)
        follow = lambda: average.update(network)  # noqa: E731
    else:
        network = peer if name == "diffusers" else peer.to(memory_format=torch.channels_last)
        if arguments.checkpointing:
            network.enable_gradient_checkpointing()
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
        weights: list[Any] = list(network.parameters())
        theirs = EMAModel(weights)
        follow = lambda: theirs.step(weights)  # noqa: E731
    if "compiled" in name:
        compile_networks(network)
    shape = (batch, LATENTS, arguments.side, arguments.side)
    x, noise = torch.randn(shape, device=device), torch.randn(shape, device=device)
    t = torch.randint(1000, (batch,), device=device)
    context = torch.randn(batch, TOKENS, CONTEXT, device=device)

    def step() -> None:
        with precision(arguments):
            output = network(x, t, context)
        loss = F.mse_loss(_tensor(output).float(), noise)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        follow()

    network.train()
    return step


def _tensor(output: Any) -> Tensor:
    return getattr(output, "sample", output)


def _peak_elsewhere(name: str, channels: int, batch: int) -> float:
    command = [sys.executable, *sys.argv, "--only", name]
    command += ["--channels", str(channels), "--batch", str(batch)]
    finished = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(finished.stdout.splitlines()[-1]))


def _peak(arguments: argparse.Namespace) -> float:
    """MB of the network, its optimiser and average, and two steps."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    _warm_up(arguments.device)
    before = peak_memory(arguments.device)
    step = _step(arguments.only, arguments.channels[0], arguments.batch[0], arguments)
    for _ in range(2):
        step()
    return (peak_memory(arguments.device) - before) / MB


def _warm_up(device: str) -> None:
    """Load the libraries of products and convolutions."""
    layer = nn.Conv2d(8, 8, 3).to(device)
    layer(torch.randn(2, 8, 16, 16, device=device)).sum().backward()


if __name__ == "__main__":
    main()
