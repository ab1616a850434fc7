"""May the numbers of two evaluations be compared? If not, what differs.

Examples:
  python scripts/compare_reports.py runs/a/generated/metrics.json runs/b/generated/metrics.json
  python scripts/compare_reports.py runs/a/generated runs/b/generated

Two numbers are comparable if nothing but the model and its sampler differs: feature network and its
weights, resizing, metric and parameters, numbers of images, real images, file format, labels. Exit
code 0: all numbers that both have are; 1: some are not; 2: bad input.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from ldm.cli.options.common import new_parser
from ldm.errors import UserError


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of the program; ``a`` and ``b`` are the files."""
    options = _parser().parse_args(arguments)
    for name in ("a", "b"):
        path = getattr(options, name)
        file = path / "metrics.json" if path.is_dir() else path
        if not os.path.lexists(file):
            raise UserError(f"{file}: no such report; scripts/evaluate.py writes it")
        setattr(options, name, file)
    return options


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("compare_reports", __doc__)
    for name in ("a", "b"):
        parser.add_argument(name, metavar=name.upper(), type=Path, help="report, or its folder")
    return parser
