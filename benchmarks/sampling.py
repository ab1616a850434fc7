r"""Time of guided DDIM sampling with decoding, beside diffusers' UNet, DDIMScheduler and VAE.

Same weights, same start; the loop of diffusers is that of its pipelines: doubled batch, combined,
scheduler.step. Ours is LatentDiffusion.sample.

Examples:
  python benchmarks/sampling.py                               4 images of 256 pixels, 50 steps
  python benchmarks/sampling.py --channels 192 --batch 8 --device cuda --precision bf16 --compile
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from _measure import alternate, begin, heading, parser, precision, rows
from _peers import CONTEXT, LATENTS, TOKENS, alternatives, autoencoders, check_same, unets
from diffusers import DDIMScheduler
from torch import Tensor, nn

from ldm.conditioners.base import Conditioner
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.diffusion.schedule import NoiseSchedule
from ldm.layers.compile import compile_networks
from ldm.samplers.ddim import DDIM

SCALE = 3.0


class Given(Conditioner):
    """Embeddings from elsewhere as the context; zeros are the unconditional value."""

    def __init__(self) -> None:
        super().__init__("context", "crossattn", 0.0)
        self.dim = CONTEXT

    def forward(self, value: Tensor) -> Tensor:
        """(B, L, D) as it is."""
        return value

    def null(self, n: int, like: Tensor) -> Tensor:
        """Zeros."""
        return torch.zeros_like(like[:1]).expand(n, -1, -1)


def main() -> None:
    """Time both in turns and print a table in Markdown."""
    options = parser(__doc__, repeats=3)
    options.add_argument("--channels", type=int, default=64)
    options.add_argument("--first-stage-channels", type=int, default=32)
    options.add_argument("--batch", type=int, default=4)
    options.add_argument("--side", type=int, default=256, help="height and width of the images")
    options.add_argument("--steps", type=int, default=50)
    arguments = options.parse_args()
    if arguments.quick:
        arguments.steps, arguments.batch = min(arguments.steps, 10), 1
    begin(arguments, f"Guided sampling, {arguments.side}x{arguments.side} pixels")
    ours, peer = unets(arguments.channels, arguments.device)
    stage, vae = autoencoders(arguments.first_stage_channels, arguments.device)
    mine, theirs = alternatives(ours.eval(), peer.eval(), copy.deepcopy, arguments.compile)
    calls = _calls(mine, theirs, stage.eval(), vae.eval(), arguments)
    times = alternate(calls, arguments.repeats, arguments.device)
    print(heading(["batch", "steps"]))
    first = [arguments.batch, arguments.steps]
    print("\n".join(rows(first, times, "ldm", arguments.device)), flush=True)


def _calls(
    mine: Mapping[str, nn.Module],
    theirs: Mapping[str, nn.Module],
    stage: nn.Module,
    vae: nn.Module,
    arguments: argparse.Namespace,
) -> dict[str, Callable[[], object]]:
    device, batch, side = arguments.device, arguments.batch, arguments.side // 8
    context = torch.randn(batch, TOKENS, CONTEXT, device=device)
    start = torch.randn(batch, LATENTS, side, side, device=device)

    def run(sample: Callable[[], Tensor]) -> Tensor:
        with torch.no_grad(), precision(arguments):
            return sample()

    calls: dict[str, Callable[[], Tensor]] = {}
    for name, network in mine.items():
        schedule = NoiseSchedule(kind="linear", timesteps=1000, start=0.00085, end=0.012)
        model = LatentDiffusion(network, copy.deepcopy(stage), schedule, [Given()]).eval()
        if "compiled" in name:
            compile_networks(model.autoencoder)
        calls[name] = partial(run, partial(_ours, model.to(device), context, start, arguments))
    for name, network in theirs.items():
        decoder: Any = copy.deepcopy(vae)
        if "channels_last" in name or "compiled" in name:
            decoder = decoder.to(memory_format=torch.channels_last)
        if "compiled" in name:
            compile_networks(decoder)
        calls[name] = partial(run, partial(_theirs, network, decoder, context, start, arguments))
    if arguments.precision == "fp32":
        check_same(calls["ldm"](), calls["diffusers"]())
    return {**calls}


def _ours(
    model: LatentDiffusion, context: Tensor, start: Tensor, arguments: argparse.Namespace
) -> Tensor:
    size = (arguments.side, arguments.side)
    sampler = DDIM(arguments.steps)
    return model.sample({"context": context}, size, sampler, lambda _: start, SCALE)


def _theirs(
    network: Any, vae: Any, context: Tensor, start: Tensor, arguments: argparse.Namespace
) -> Tensor:
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    scheduler.set_timesteps(arguments.steps)
    both = torch.cat([torch.zeros_like(context), context])
    x = start
    for t in scheduler.timesteps:
        output = network(torch.cat([x, x]), t, both).sample
        uncond, cond = output.chunk(2)
        x = scheduler.step(uncond + SCALE * (cond - uncond), t, x).prev_sample
    return vae.decode(x).sample


if __name__ == "__main__":
    main()
