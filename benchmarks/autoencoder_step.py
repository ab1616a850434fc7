r"""Time of one training step of a KL first stage, beside diffusers' network of the same sizes.

Both take the same weights' shapes, the same images and an L1 + KL loss, forward and backward; the
steps alternate, so that both meet the same load on the machine. A third row adds our whole
objective with its discriminator.

Examples:
  python benchmarks/autoencoder_step.py                     small enough for a processor
  python benchmarks/autoencoder_step.py --channels 128 --size 256 --batch 8 --device cuda \
      --precision bf16                                      the published kl-f8
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from diffusers import AutoencoderKL as PeerKL
from torch import Tensor, nn

from ldm.autoencoders.kl import AutoencoderKL
from ldm.autoencoders.networks import Architecture
from ldm.losses.adversarial import patch_discriminator
from ldm.losses.autoencoder import KLObjective

MULT = (1, 2, 4, 4)  # kl-f8


def main() -> None:
    """Time the steps in turns and print medians and ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16", "fp16"], default="fp32")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    steps = _steps(arguments.channels, arguments.device)
    x = torch.rand(arguments.batch, 3, arguments.size, arguments.size) * 2 - 1
    x = x.to(arguments.device)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(arguments.repeats + 1):
        for name, (network, loss) in steps.items():
            seconds = _time(network, loss, x, arguments.precision)
            if repeat:  # the first warms up
                times[name].append(seconds)
    medians = {name: sorted(values)[len(values) // 2] for name, values in times.items()}
    print(
        f"kl-f8 with {arguments.channels} channels, batch {arguments.batch} of {arguments.size} "
        f"pixels, {arguments.precision}, {arguments.device}, {torch.get_num_threads()} threads"
    )
    for name, seconds in medians.items():
        print(f"{name:<34}{seconds:>9.3f} s{seconds / medians['ldm']:>8.2f} x ldm")


def _steps(channels: int, device: str) -> dict[str, tuple[nn.Module, Callable[..., Tensor]]]:
    ours = AutoencoderKL(Architecture(channels=channels, channel_mult=MULT), 4).to(device)
    levels = len(MULT)
    peer = PeerKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=tuple(channels * m for m in MULT),
        layers_per_block=2,
        latent_channels=4,
    ).to(device)
    objective = KLObjective(patch_discriminator(), perceptual_weight=0.0, disc_start=0).to(device)

    def plain(x: Tensor) -> Tensor:
        output = ours(x)
        return (x - output.image).abs().sum() / len(x) + 1e-6 * output.posterior.kl().mean()

    def diffusers(x: Tensor) -> Tensor:
        posterior = peer.encode(x).latent_dist
        image = peer.decode(posterior.sample()).sample
        return (x - image).abs().sum() / len(x) + 1e-6 * posterior.kl().mean()

    def adversarial(x: Tensor) -> Tensor:
        output = ours(x)
        loss: Tensor = objective.generator(x, output, ours.last_layer, 1)[0]
        return loss + objective.discriminator_loss(x, output.image, 1)[0]

    return {
        "ldm": (ours, plain),
        "diffusers": (peer, diffusers),
        "ldm, with both adversarial losses": (ours, adversarial),
    }


def _time(network: nn.Module, loss: Callable[..., Tensor], x: Tensor, precision: str) -> float:
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    network.zero_grad(set_to_none=True)
    _wait(x)
    start = time.perf_counter()
    with torch.autocast(x.device.type, dtype=dtype, enabled=precision != "fp32"):
        value = loss(x)
    value.backward()
    _wait(x)
    return time.perf_counter() - start


def _wait(x: Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
