"""May the numbers of two evaluations be compared? If not, what differs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ldm.cli.app import say
from ldm.compat.moved import with_current_names
from ldm.errors import UserError
from ldm.evaluation.compare_reports import compare_reports, other_differences
from ldm.files import read_json

_SHAPE = {"measurements": [{"name": str, "value": object}]}


def run(arguments: argparse.Namespace) -> None:
    """Compare, and say it."""
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


def read_report(file: Path) -> dict[str, Any]:
    """A report of evaluate.py.

    Raises:
        UserError: it is none.
    """
    remedy = "it is not a report of scripts/evaluate.py"
    report: dict[str, Any] = with_current_names(read_json(file, remedy=remedy, shape=_SHAPE))
    return report


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
