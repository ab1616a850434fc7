"""Time and peak memory of the nearest-code search, beside two other implementations.

Every implementation runs in a process of its own, so that its peak memory is its own.

Example:
  python benchmarks/vq_lookup.py                       8192 codes, 64x64 latents, batch 8
  python benchmarks/vq_lookup.py --codes 16384 --device cuda
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

MB = 2**20


def _ours(codes: int, dim: int, device: str) -> Callable[[Tensor], Tensor]:
    from ldm.autoencoders.quantizer import VectorQuantizer

    return VectorQuantizer(codes, dim).to(device).nearest


def _taming(codes: int, dim: int, device: str) -> Callable[[Tensor], Tensor]:
    from taming.modules.vqvae.quantize import VectorQuantizer

    layer = VectorQuantizer(codes, dim, beta=0.25).to(device)
    return lambda z: layer(z)[2][2]


def _diffusers(codes: int, dim: int, device: str) -> Callable[[Tensor], Tensor]:
    from diffusers.models.autoencoders.vq_model import VectorQuantizer

    layer = VectorQuantizer(codes, dim, beta=0.25, legacy=True).to(device)
    return lambda z: layer(z)[2][2]


IMPLEMENTATIONS = {"ldm": _ours, "taming-transformers": _taming, "diffusers": _diffusers}


def main() -> None:
    """Measure all implementations, or one (what the processes started here do)."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--codes", type=int, default=8192)
    parser.add_argument("--dim", type=int, default=3)
    parser.add_argument("--side", type=int, default=64, help="height and width of the latents")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", choices=IMPLEMENTATIONS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(_measure(arguments)))
        return
    print(
        f"{arguments.batch} x {arguments.side} x {arguments.side} latents of {arguments.dim} "
        f"channels, {arguments.codes} codes, {arguments.device}, {torch.get_num_threads()} threads"
    )
    rows = {}
    for name in IMPLEMENTATIONS:
        command = [sys.executable, *sys.argv, "--only", name]
        finished = subprocess.run(command, check=True, capture_output=True, text=True)
        rows[name] = json.loads(finished.stdout.splitlines()[-1])
    ours = rows["ldm"]["seconds"]
    print(f"{'':<22}{'seconds':>10}{'x ldm':>8}{'peak MB above the start':>26}")
    for name, row in rows.items():
        seconds, peak = row["seconds"], row["peak"]
        print(f"{name:<22}{seconds:>10.3f}{seconds / ours:>8.2f}{peak / MB:>26.0f}")


@torch.no_grad()
def _measure(arguments: argparse.Namespace) -> dict[str, float]:
    device = arguments.device
    torch.manual_seed(0)
    search = IMPLEMENTATIONS[arguments.only](arguments.codes, arguments.dim, device)
    shape = (arguments.batch, arguments.dim, arguments.side, arguments.side)
    z = torch.randn(shape, device=device) / arguments.codes
    search(z[:1, :, :8, :8])  # loads kernels
    before = _peak(device)
    times = []
    for _ in range(arguments.repeats):
        start = time.perf_counter()
        search(z).sum().item()  # waits for the device
        times.append(time.perf_counter() - start)
    return {"seconds": sorted(times)[len(times) // 2], "peak": _peak(device) - before}


def _peak(device: str) -> float:
    """Largest memory so far, bytes."""
    if device.startswith("cuda"):
        return float(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


if __name__ == "__main__":
    main()
