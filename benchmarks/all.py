"""All tables that stand beside diffusers, one after the other.

Examples:
  python benchmarks/all.py --quick                            a few minutes on two cores
  python benchmarks/all.py --compile > tables.md
  python benchmarks/all.py --device cuda --precision bf16 --peak 989e12 --compile
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
TABLES = ("unet", "training_step", "optimizer_ema", "autoencoder", "sampling")


def main() -> None:
    """Run every script and pass its options on; a failure does not stop the others."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--quick", action="store_true", help="fewer sizes and rounds")
    parser.add_argument("--compile", action="store_true", help="rows with torch.compile")
    parser.add_argument("--peak", help="FLOP/s of a GPU: adds the table of the official configs")
    arguments = parser.parse_args()
    shared = ["--device", arguments.device, "--precision", arguments.precision]
    shared += [f"--{name}" for name in ("quick", "compile") if getattr(arguments, name)]
    runs = [[name, *shared] for name in TABLES]
    quick = ["--quick"] if arguments.quick else []
    runs += [["vq_lookup", "--device", arguments.device], ["loader", *quick]]
    if arguments.peak:
        runs.append(["official", *shared, "--peak", arguments.peak])
    failed = []
    for script, *options in runs:
        start = time.monotonic()
        done = subprocess.run([sys.executable, str(HERE / f"{script}.py"), *options])
        print(f"\n({script}: {time.monotonic() - start:.0f} s)", flush=True)
        if done.returncode:
            failed.append(script)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
