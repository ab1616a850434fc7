"""Real kills of real processes; ``test_exact_resume.py`` has the cases, in less time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("options", [["--workers", "0"], ["--data", "shards"], ["--devices", "2"]])
def test_a_run_killed_at_random_moments_ends_as_the_whole_one(options: list[str]) -> None:
    command = [sys.executable, "benchmarks/soak.py", "--minutes", "0", "--kills", "3", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3000)
    assert "3 kills" in done.stdout, done.stderr[-2000:]
    assert done.returncode == 0, done.stdout
