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
import json
import sys
from pathlib import Path
from typing import Any

from _cli import run, say

from ldm.errors import UserError
from ldm.evaluation.comparable import compare_reports, other_differences


def main() -> None:
    """Compare, and say it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("a", "b"):
        parser.add_argument(name, metavar=name.upper(), type=Path, help="report, or its folder")
    arguments = parser.parse_args()
    a, b = (read_report(path) for path in (arguments.a, arguments.b))
    verdicts = compare_reports(a, b)
    if not verdicts:
        raise UserError(f"{arguments.a} and {arguments.b} have no number in common")
    width = max(len(verdict.name) for verdict in verdicts)
    for verdict in verdicts:
        values = "  ".join(f"{_number(value):>10}" for value in verdict.values)
        say(f"{verdict.name:{width}}  {values}  {'comparable' if verdict.comparable else 'NOT'}")
    reasons: dict[str, list[str]] = {}
    for verdict in verdicts:
        for reason in verdict.reasons:
            reasons.setdefault(reason, []).append(verdict.name)
    for reason, names in reasons.items():
        say(f"not comparable: {reason} ({', '.join(names)})")
    for sentence in other_differences(a, b):
        say(f"differs, too: {sentence}")
    if reasons:
        sys.exit(1)


def read_report(path: Path) -> dict[str, Any]:
    """A report of evaluate.py.

    Raises:
        UserError: it is none.
    """
    file = path / "metrics.json" if path.is_dir() else path
    try:
        report: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        [measurement["name"] + "" for measurement in report["measurements"]]
    except FileNotFoundError:
        raise UserError(f"{file}: no such report; scripts/evaluate.py writes it") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{file}: not a report of scripts/evaluate.py") from None
    return report


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    run(main)
