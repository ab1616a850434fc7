r"""Training steps by the way in which threads wait for each other, idle and beside other work.

Each row is a process of its own: the two UNets of quickstart and of a larger map take steps, first
alone, then while other processes, ``--burn`` of them, do nothing but compute. Between two parallel
regions threads of OpenMP spin or sleep: spinning ones begin at once, sleeping ones leave the core
to others. ``ldm.threads`` changes from one to the other by what others do.

Examples:
  python benchmarks/threads.py
  python benchmarks/threads.py --spins 1000 100000 --burn 2
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
from _measure import machine

from ldm.denoisers.unet import UNet
from ldm.threads import considerate

SECONDS = 8.0
"""Of steps that are timed, in each state of the machine."""
CONSIDERATE = "LDM_BENCHMARK_CONSIDERATE"
"""Variable that lets a child use what the library has."""
SIZES = {"8x8, batch 32": (8, 32), "32x32, batch 4": (32, 4)}


def main() -> None:
    """Print a table in Markdown: steps per second by policy and state of the machine."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cores = len(os.sched_getaffinity(0))
    options.add_argument(
        "--spins", type=int, nargs="+", default=[], help="more rows: so many turns"
    )
    options.add_argument("--burn", type=int, default=1, help="cores that others keep busy")
    options.add_argument("--threads", type=int, default=cores, help="of a training")
    options.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = options.parse_args()
    if arguments.child:
        with considerate() if CONSIDERATE in os.environ else contextlib.nullcontext():
            print(json.dumps({name: _speed(*size) for name, size in SIZES.items()}))
        return
    threads = arguments.threads
    policies: dict[str, dict[str, str]] = {
        "1 thread": {"OMP_NUM_THREADS": "1"},
        f"{threads} threads, as OpenMP waits": {},
        f"{threads} threads, passive": {"OMP_WAIT_POLICY": "PASSIVE"},
        f"{threads} threads, by what others do": {CONSIDERATE: "1"},
    }
    for spins in arguments.spins:
        policies[f"{threads} threads, {spins} turns"] = {"GOMP_SPINCOUNT": str(spins)}
    print(f"\nSteps per second by waiting\n{machine('cpu')}\n")
    states = [f"{name}, {state}" for name in SIZES for state in ("idle", "busy")]
    print(f"| | {' | '.join(states)} |\n|---{'|---' * len(states)}|")
    for policy, variables in policies.items():
        idle = _measured(variables, threads)
        burners = [
            multiprocessing.Process(target=_burn, daemon=True) for _ in range(arguments.burn)
        ]
        for burner in burners:
            burner.start()
        busy = _measured(variables, threads)
        for burner in burners:
            burner.kill()
        cells = [f"{speeds[name]:.2f}" for name in SIZES for speeds in (idle, busy)]
        print(f"| {policy} | {' | '.join(cells)} |", flush=True)


def _burn() -> None:
    while True:
        pass


def _measured(variables: dict[str, str], threads: int) -> dict[str, float]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    finished = subprocess.run(
        [sys.executable, __file__, "--child"],
        env=inherited | {"OMP_NUM_THREADS": str(threads)} | variables,
        check=True,
        capture_output=True,
        text=True,
    )
    found: dict[str, float] = json.loads(finished.stdout.splitlines()[-1])
    return found


def _speed(side: int, batch: int) -> float:
    """Steps per second of a small UNet on latents (batch, 4, side, side)."""
    torch.manual_seed(0)
    network = UNet(4, 4, 64, 1, (1, 2), (1, 1), use_spatial_transformer=True, context_dim=64)
    network.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    x, context = torch.randn(batch, 4, side, side), torch.randn(batch, 8, 64)
    t = torch.randint(1000, (batch,))

    def step() -> None:
        F.mse_loss(network(x, t, context), x).backward()
        optimizer.step()
        optimizer.zero_grad()

    warm = time.perf_counter() + 3.0
    while time.perf_counter() < warm:
        step()
    begin, steps = time.perf_counter(), 0
    while time.perf_counter() - begin < SECONDS:
        step()
        steps += 1
    return steps / (time.perf_counter() - begin)


if __name__ == "__main__":
    main()
