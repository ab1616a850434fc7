r"""Quality against time: stage 2 of the quickstart as it is, and as it was.

Both train with ``scripts/train.py`` on the first stage of a quickstart, one after the other, with
the same number of threads, each to its own last step: a schedule that is broken off says little. Of
checkpoints on the way the averaged weights draw the captions of held-out scenes, and the judge says
how many show shape and colour. Time is that of the training program, its start included. Finished
rows are kept in OUT: a killed call can be repeated.

Examples:
  bash scripts/quickstart.sh
  python benchmarks/quality_time.py --out runs/quality-time
  python benchmarks/quality_time.py --out runs/quality-time --captions 128 --points 4

Writes OUT/quality.json, OUT/quality.md and OUT/quality.png.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from _measure import machine
from matplotlib.figure import Figure

from ldm.cli.options.configs import split_config
from ldm.config import load_config
from ldm.files import write_atomically, write_text

CONFIG = "configs/quickstart/text2img.yaml"
WAS = (
    "model.params.schedule.params.start=0.0015",
    "model.params.schedule.params.end=0.0195",
    "model.params.weighting.params.gamma=2.0",
    "model.params.conditioners.0.params.embedding_std=0.02",
    "task.params.optimizer.target=torch.optim.AdamW",
    "task.params.optimizer.params.lr=2.0e-3",
    "task.params.lr_schedule.params.end=0.1",
    "data.params.train.params.length=100000",
    "trainer.max_steps=2000",
)
"""Settings of the release before: AdamW, images encoded in each step, a noisier schedule."""
Row = dict[str, Any]


def main() -> None:
    """Train what is missing, judge its checkpoints, and write table and figure."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--first-stage", default="runs/quickstart-autoencoder")
    options.add_argument("--latents", type=Path, default=Path("runs/quickstart-latents"))
    options.add_argument("--captions", type=int, default=256)
    options.add_argument("--points", type=int, default=5, help="checkpoints that are judged")
    arguments = options.parse_args()
    cached = [CONFIG, str(arguments.latents / "data.yaml")]
    curves = {
        "as it was": _curve("was", [CONFIG, *WAS], arguments),
        "as it is": _curve("is", cached, arguments),
    }
    table = [machine("cpu"), "", "| | seconds | steps | shape and colour |", "|---|---|---|---|"]
    for name, rows in curves.items():
        for row in rows:
            cells = (name, f"{row['seconds']:.0f}", row["step"], f"{row['correct']:.1%}")
            table.append(f"| {' | '.join(map(str, cells))} |")
    write_text(arguments.out / "quality.md", "\n".join(table) + "\n")
    _draw(curves, arguments.out / "quality.png")
    print("\n".join(table))


def _curve(name: str, config: list[str], arguments: argparse.Namespace) -> list[Row]:
    file = arguments.out / "quality.json"
    known: dict[str, list[Row]] = json.loads(file.read_text()) if file.exists() else {}
    if name in known:
        return known[name]
    files, overrides = split_config(config)
    steps = load_config(*files, overrides=overrides).trainer.max_steps
    every = steps // arguments.points
    settings = [
        *(f"name={name}", f"first_stage={arguments.first_stage}", "every.images=0"),
        *(f"every.validation={steps}", f"every.checkpoint={every}", f"every.keep={every}"),
    ]
    _call("train.py", *config, *settings, "--runs", str(arguments.out), "--if-exists", "resume")
    run = arguments.out / name
    begun = (run / "config.yaml").stat().st_mtime
    rows = []
    for step in range(every, steps + 1, every):
        checkpoint = run / "checkpoints" / f"step-{step}.ckpt"
        images = run / f"judged-{step}"
        drawn = ("--per-prompt", "1", "--steps", "20", "--guidance", "3", "--seed", "1000")
        captions = ("--validation-captions", str(arguments.captions), "--out", str(images))
        _call("txt2img.py", str(run), "--checkpoint", str(checkpoint), *captions, *drawn)
        _call("evaluate.py", str(images), "--judge")
        report = json.loads((images / "metrics.json").read_text())
        correct = next(
            m["value"] for m in report["measurements"] if m["name"] == "shape_and_colour"
        )
        seconds = checkpoint.stat().st_mtime - begun
        rows.append({"seconds": seconds, "step": step, "correct": correct})
    write_text(file, json.dumps(known | {name: rows}))
    return rows


def _call(script: str, *arguments: str) -> None:
    subprocess.run([sys.executable, f"scripts/{script}", *arguments], check=True)


def _draw(curves: dict[str, list[Row]], out: Path) -> None:
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    for name, rows in curves.items():
        seconds = [0.0, *(row["seconds"] for row in rows)]
        axes.plot(seconds, [0.0, *(row["correct"] for row in rows)], "o-", label=name)
    axes.set(xlabel="seconds of training", ylabel="shape and colour of held-out captions")
    axes.set_ylim(0, 1.03)
    axes.grid(alpha=0.3)
    axes.legend()
    write_atomically(out, lambda file: figure.savefig(file, dpi=110, format="png"))


if __name__ == "__main__":
    main()
