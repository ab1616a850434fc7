"""Loss curves as a picture."""

from __future__ import annotations

import json
from pathlib import Path

LABELS = 0.8
"""Inches left of each curve, for numbers such as 1.009 x 10^0."""


def draw_curves(metrics: Path, out: Path) -> None:
    """Draw every metric of a run, training and validation over each other, into a PNG.

    Speed and memory (``perf/...``) are no curves to look at: TensorBoard shows them.

    Args:
        metrics: a ``metrics.jsonl``.
        out: the PNG to write.
    """
    from matplotlib.figure import Figure

    curves = read_metrics(metrics)
    splits = ("train", "val")
    parts = [name.partition("/") for name in curves]
    names = sorted({name for split, _, name in parts if split in splits})
    columns = min(3, max(1, len(names)))
    rows = max(1, -(-len(names) // columns))
    width, height = 4.2 * columns, 2.8 * rows
    figure = Figure(figsize=(width, height))
    # a layout of fixed margins: to fit them to the labels would take twice as long as to draw
    edges = {"left": LABELS / width, "right": 1 - 0.15 / width, "top": 1 - 0.3 / height}
    between = LABELS * columns / (width - LABELS * columns - 0.15)  # of the width of a curve
    figure.subplots_adjust(**edges, bottom=0.3 / height, wspace=between, hspace=0.25)
    for index, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, index + 1)
        for split in splits:
            points = curves.get(f"{split}/{name}")
            if points:
                style = "o-" if split == "val" or len(points) == 1 else "-"
                steps, values = zip(*points, strict=True)
                axes.plot(steps, values, style, markersize=3, linewidth=1, label=split)
        if "loss" in name and all(
            value > 0 for split in splits for _, value in curves.get(f"{split}/{name}", [])
        ):
            axes.set_yscale("log")
        axes.set_title(name, fontsize=9)
        axes.tick_params(which="both", labelsize=7)
        axes.legend(fontsize=7, frameon=False)
    figure.savefig(out, dpi=110)


def read_metrics(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Curves of a metrics file: name -> (step, value) pairs.

    Steps that were logged twice, as happens after a kill and resume, keep the later value; one that
    was not finite is left out.
    """
    curves: dict[str, dict[int, float | None]] = {}
    for line in path.read_text().splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue  # the line a kill cut short
        step = record.pop("step")
        for name, value in record.items():
            curves.setdefault(name, {})[step] = value
    finite = {
        name: sorted((step, value) for step, value in curve.items() if value is not None)
        for name, curve in curves.items()
    }
    return {name: curve for name, curve in finite.items() if curve}
