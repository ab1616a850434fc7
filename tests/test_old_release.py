"""Runs, checkpoints, caches, stores, records and reports of the last release keep working."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.old_release import HERE, PARTS, differences, numbers_of

MEANT = {
    "reports/reports/on-the-fly.json/hashes/fake": "that of a model's config, which names classes",
    "reports/reports/on-the-fly.json/same hashes/fake": "the same",
}
"""What differs, and why."""
EXPECTED = json.loads((HERE / "expected.json").read_text())


def test_all_is_compared() -> None:
    assert EXPECTED.keys() == PARTS.keys()


@pytest.mark.parametrize("part", PARTS)
def test_the_same_numbers(part: str, tmp_path: Path) -> None:
    found = differences(EXPECTED[part], numbers_of(part, tmp_path), part)
    assert [line for line in found if line.split(": ")[0] not in MEANT] == []
