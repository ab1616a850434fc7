"""Loss curves as a picture."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ldm.files import open_regular, write_atomically

LABELS = 0.8
"""Inches left of each curve, for numbers such as 1.009 x 10^0."""
_LONGEST_LINE = 1 << 20
"""Bytes."""
_LARGEST = 1e300
"""Beyond it axes have no numbers."""


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
        printable = name.encode("utf-8", "backslashreplace").decode()
        axes.set_title(printable, fontsize=9, parse_math=False)
        axes.tick_params(which="both", labelsize=7)
        axes.legend(fontsize=7, frameon=False)
    write_atomically(out, lambda file: figure.savefig(file, format="png", dpi=110))


def read_metrics(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Curves of a metrics file: name -> (step, value) pairs.

    Steps that were logged twice, as happens after a kill and resume, keep the later value; one that
    was not finite is left out. A line that is no record, and a value that is no number, is passed
    over.

    Raises:
        OSError: the file cannot be read.
    """
    curves: dict[str, dict[int, float | None]] = {}
    for line in _lines(path):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue  # the line a kill cut short
        step = record.pop("step", None) if isinstance(record, dict) else None
        if type(step) is int and abs(step) <= sys.maxsize:
            for name, value in record.items():
                if value is None or _is_number(value):
                    curves.setdefault(name, {})[step] = value
    finite = {
        name: sorted((step, value) for step, value in curve.items() if value is not None)
        for name, curve in curves.items()
    }
    return {name: curve for name, curve in finite.items() if curve}


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, without those that are longer than a record can be."""
    with open_regular(path) as file:
        whole = True
        while line := file.readline(_LONGEST_LINE):
            ended = line.endswith(b"\n")
            if whole and (ended or len(line) < _LONGEST_LINE):
                yield line
            whole = ended


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return -_LARGEST <= value <= _LARGEST
