"""Time of a UNet's forward pass, beside diffusers' UNet2DConditionModel with the same weights.

Three levels with transformers and a context of 16 tokens, 32x32 latents, no gradients. "ldm, in
a sampler" is a call between others with the same weights, as all samplers make them: on a
processor what is computed from weights alone is then kept.

Examples:
  python benchmarks/unet.py                                   64 and 128 channels, batch 1, 4, 16
  python benchmarks/unet.py --channels 192 --batch 16 --device cuda --precision bf16 --compile
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from contextlib import ExitStack
from contextvars import copy_context
from functools import partial
from typing import Any

import torch
from _measure import alternate, begin, heading, parser, precision, rows
from _peers import CONTEXT, LATENTS, TOKENS, alternatives, check_same, unets
from torch import Tensor

from ldm.layers.winograd import constant_weights


def main() -> None:
    """Time the networks in turns and print a table in Markdown."""
    options = parser(__doc__, repeats=9)
    options.add_argument("--channels", type=int, nargs="+", default=[64, 128])
    options.add_argument("--batch", type=int, nargs="+", default=[1, 4, 16])
    options.add_argument("--side", type=int, default=32, help="height and width of the latents")
    arguments = options.parse_args()
    begin(arguments, f"Forward pass of a UNet, {arguments.side}x{arguments.side} latents")
    if arguments.quick:
        arguments.batch = arguments.batch[:2]
    print(heading(["channels", "batch"]))
    for channels in arguments.channels:
        ours, peer = unets(channels, arguments.device)
        both = alternatives(ours.eval(), peer.eval(), copy.deepcopy, arguments.compile)
        for batch in arguments.batch:
            calls, sampling, block = _calls(both, batch, arguments), copy_context(), ExitStack()
            sampling.run(block.enter_context, constant_weights())
            calls["ldm, in a sampler"] = partial(sampling.run, calls["ldm"])
            times = alternate(calls, arguments.repeats, arguments.device)
            sampling.run(block.close)
            print("\n".join(rows([channels, batch], times, "ldm", arguments.device)), flush=True)


def _calls(
    both: tuple[dict[str, Any], dict[str, Any]], batch: int, arguments: argparse.Namespace
) -> dict[str, Callable[[], object]]:
    device, side = arguments.device, arguments.side
    x = torch.randn(batch, LATENTS, side, side, device=device)
    t = torch.randint(1000, (batch,), device=device)
    context = torch.randn(batch, TOKENS, CONTEXT, device=device)

    def run(network: Any) -> Tensor:
        with torch.no_grad(), precision(arguments):
            return network(x, t, context)

    def run_peer(network: Any) -> Tensor:
        with torch.no_grad(), precision(arguments):
            return network(x, t, context).sample

    if arguments.precision == "fp32":
        check_same(run(both[0]["ldm"]), run_peer(both[1]["diffusers"]))
    calls: dict[str, Callable[[], object]] = {k: partial(run, v) for k, v in both[0].items()}
    return calls | {k: partial(run_peer, v) for k, v in both[1].items()}


if __name__ == "__main__":
    main()
