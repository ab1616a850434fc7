"""Kill a training again and again, and check that it ends as if nothing had happened.

Trains a tiny stage 2 once without a break. Then trains it again, kills all its processes with
SIGKILL at random moments, and resumes it through scripts/train.py --resume each time. At the end
the weights, averages, optimiser and every logged number of both must be equal bit by bit.

Examples:
  python benchmarks/soak.py                                30 minutes, at least 100 kills
  python benchmarks/soak.py --minutes 3 --kills 5 --data shards --workers 2
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from ldm.checkpoint import load_training_checkpoint
from tests.training import tiny
from tests.training.test_exact_resume import flat, make_shards

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def main() -> None:
    """Run both trainings, print a table, end with status 1 if they differ."""
    arguments = _parser().parse_args()
    draws = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = _config(folder, arguments)
        steps = _steps(config, folder, arguments)
        print(f"{steps} steps; {arguments.data}, {arguments.workers} workers", flush=True)
        config = _config(folder, arguments, steps)
        whole = _run([str(config), "--runs", str(folder / "whole")])
        assert whole.wait() == 0, "the run without a break failed"
        kills = _killed_run(config, folder / "killed", arguments, draws)
        runs = [folder / kind / "soak" for kind in ("whole", "killed")]
        differences = compare(*runs)
        print(f"\n{'kill':>4} {'after s':>8} {'step on disk':>12}")
        for number, (seconds, step) in enumerate(kills, start=1):
            print(f"{number:>4} {seconds:>8.2f} {step:>12}")
        print(f"\n{len(kills)} kills over {steps} steps: {len(differences)} differences")
        for difference in differences[:20]:
            print(f"  {difference}")
    sys.exit(1 if differences else 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30.0, help="about so long in all")
    parser.add_argument("--kills", type=int, default=100, help="at least so many")
    parser.add_argument("--data", choices=["scenes", "shards"], default="scenes")
    parser.add_argument("--workers", type=int, default=2, help="loader workers")
    parser.add_argument("--devices", type=int, default=1, help="processes, on the CPU")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    return parser


def _config(folder: Path, arguments: argparse.Namespace, steps: int = 40) -> Path:
    config = tiny.class2img(name="soak")
    config.trainer = {"max_steps": steps, "accelerator": "cpu", "devices": arguments.devices}
    config.every = {"log": 1, "validation": 7, "checkpoint": 3, "images": 11}
    config.data.params.num_workers = arguments.workers
    config.data.params.train.params.length = 90  # 22.5 batches
    if arguments.data == "shards":
        shards = folder / "shards"
        if not shards.exists():
            make_shards(shards, (25, 7, 30, 19))
        framing = {"height": 16, "width": 16, "crop": "random", "flip": 0.5}
        config.data.params.train = {
            "target": "ldm.data.Shards",
            "params": {
                "shards": str(shards),
                "framing": {"target": "ldm.data.Framing", "params": framing},
                "caption": None,
                "classes": 24,
                "buffer": 9,
            },
        }
    path = folder / "config.yaml"
    path.write_text(OmegaConf.to_yaml(config))
    return path


def _steps(config: Path, folder: Path, arguments: argparse.Namespace) -> int:
    """As many steps as fill the time, found by timing a short run."""
    begin = time.monotonic()
    run = _run([str(config), "--runs", str(folder / "trial")])
    assert run.wait() == 0, "the trial run failed"
    trial = time.monotonic() - begin
    status = json.loads((folder / "trial" / "soak" / "status.json").read_text())
    per_step = status["seconds"] / 40
    start = max(trial - status["seconds"], 0.5)
    # Both runs, and the start of each resumption, have to fit.
    left = 60 * arguments.minutes - trial - (arguments.kills + 2) * start
    return max(60, 4 * arguments.kills, int(left / per_step / 2.5))


def _run(words: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / "train.py"), *words],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # a kill takes the workers along
    )


def _killed_run(
    config: Path, runs: Path, arguments: argparse.Namespace, draws: random.Random
) -> list[tuple[float, int]]:
    """Seconds and the step on the disk at each kill of a run that reaches its end."""
    folder, kills = runs / "soak", list[tuple[float, int]]()
    words = [str(config), "--runs", str(runs)]
    total = int(OmegaConf.load(config).trainer.max_steps)
    while True:
        begin, step = time.monotonic(), _step(folder)
        # Kill soon enough after a later step to get all kills in, and at any moment of it.
        goal = step + draws.randint(
            1, max(2, 2 * (total - step) // max(1, arguments.kills - len(kills)))
        )
        run = _run(words)
        while run.poll() is None and _logged(folder) < min(goal, total - 1):
            time.sleep(0.01)
        time.sleep(draws.random() * 0.2)
        enough = len(kills) >= arguments.kills
        if enough or run.poll() is not None:
            assert run.wait() == 0, "a resumed run failed"
            return kills
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        kills.append((time.monotonic() - begin, _step(folder)))
        if (folder / "checkpoints" / "last.ckpt").exists():
            words = ["--resume", str(folder)]
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _logged(folder: Path) -> int:
    """The last step in the log; a line that is being written does not count."""
    try:
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        return int(json.loads(lines[-1])["step"])
    except (OSError, ValueError, IndexError, KeyError):
        return -1


def _step(folder: Path) -> int:
    last = folder / "checkpoints" / "last.ckpt"
    return int(load_training_checkpoint(last)["global_step"]) if last.exists() else 0


def compare(whole: Path, killed: Path) -> list[str]:
    """What differs between two runs: in the last checkpoint, the best one and the log."""
    differences = []
    for file in ("last.ckpt", "best.ckpt"):
        states = [load_training_checkpoint(run / "checkpoints" / file) for run in (whole, killed)]
        for key in ("state_dict", "ema", "optimizer_states", "lr_schedulers", "global_step"):
            leaves = [flat(state.get(key)) for state in states]
            differences += [
                f"{file} {key}{name}"
                for name in leaves[0].keys() | leaves[1].keys()
                if not _equal(leaves[0].get(name), leaves[1].get(name))
            ]
    logs = [_numbers(run) for run in (whole, killed)]
    differences += [
        f"log {name} at step {step}: {logs[0].get((name, step))} and {logs[1].get((name, step))}"
        for name, step in sorted(logs[0].keys() | logs[1].keys())
        if logs[0].get((name, step)) != logs[1].get((name, step))
    ]
    return differences


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return torch.equal(a, b)
    return type(a) is type(b) and bool(a == b)


def _numbers(run: Path) -> dict[tuple[str, int], float]:
    """All numbers in the log but speed and memory; a step that was repeated counts once."""
    found = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue  # the line a kill cut short
        step = record.pop("step")
        found |= {(k, step): v for k, v in record.items() if not k.startswith("perf/")}
    return found


if __name__ == "__main__":
    main()
