"""Time of encoding and decoding, beside diffusers' AutoencoderKL with the same weights.

A first stage of kl-f8's form, no gradients. A training step: benchmarks/autoencoder_step.py.

Examples:
  python benchmarks/autoencoder.py                            small enough for a processor
  python benchmarks/autoencoder.py --channels 128 --side 256 --batch 8 --device cuda \
--precision bf16 --compile                                    the published sizes
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from _measure import alternate, begin, heading, parser, precision, rows
from _peers import LATENTS, alternatives, autoencoders, check_same
from torch import Tensor


def main() -> None:
    """Time both in turns and print a table in Markdown."""
    options = parser(__doc__, repeats=7)
    options.add_argument("--channels", type=int, nargs="+", default=[64, 128])
    options.add_argument("--batch", type=int, default=1)
    options.add_argument("--side", type=int, default=128, help="height and width of the images")
    arguments = options.parse_args()
    begin(arguments, f"Autoencoder, {arguments.batch} x {arguments.side}x{arguments.side} pixels")
    print(heading(["channels", "task"]))
    for channels in arguments.channels[: 1 if arguments.quick else None]:
        ours, peer = autoencoders(channels, arguments.device)
        both = alternatives(ours.eval(), peer.eval(), copy.deepcopy, False)
        if arguments.compile:
            _compile(both)
        for task, calls in _calls(both, arguments).items():
            times = alternate(calls, arguments.repeats, arguments.device)
            print("\n".join(rows([channels, task], times, "ldm", arguments.device)), flush=True)


def _compile(both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    from ldm.layers.compile import compile_networks

    ours, peers = both
    ours["ldm, compiled"] = copy.deepcopy(ours["ldm"])
    peers["diffusers, compiled"] = copy.deepcopy(peers["diffusers, channels_last"])
    for network in (ours["ldm, compiled"], peers["diffusers, compiled"]):
        compile_networks(network)


def _calls(
    both: tuple[dict[str, Any], dict[str, Any]], arguments: argparse.Namespace
) -> dict[str, dict[str, Callable[[], object]]]:
    batch, side, device = arguments.batch, arguments.side, arguments.device
    x = torch.rand(batch, 3, side, side, device=device) * 2 - 1
    z = torch.randn(batch, LATENTS, side // 8, side // 8, device=device)

    def run(function: Callable[[], Tensor]) -> Tensor:
        with torch.no_grad(), precision(arguments):
            return function()

    networks = {**both[0], **both[1]}
    encode = {k: partial(run, partial(_encode, v, x)) for k, v in networks.items()}
    decode = {k: partial(run, partial(_decode, v, z)) for k, v in networks.items()}
    if arguments.precision == "fp32":
        check_same(encode["ldm"](), encode["diffusers"]())
        check_same(decode["ldm"](), decode["diffusers"]())
    return {"encode": {**encode}, "decode": {**decode}}


def _encode(network: Any, x: Tensor) -> Tensor:
    posterior = network.encode(x)
    return getattr(posterior, "latent_dist", posterior).mode()


def _decode(network: Any, z: Tensor) -> Tensor:
    image = network.decode(z)
    return getattr(image, "sample", image)


if __name__ == "__main__":
    main()
