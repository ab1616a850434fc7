"""Run a program in this process, as ``scripts/NAME.py`` does in one of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from ldm.cli.app import start

SCRIPTS = Path(__file__).parents[2] / "scripts"


@dataclass(frozen=True)
class Outcome:
    """How a script ended."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="module", autouse=True)
def _no_curves(_without_curves: None) -> None:
    """No script is asked for them here."""


@pytest.fixture
def script(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """``script("train.py", "config.yaml", ...)`` -> exit code and what was printed."""

    def call(name: str, *arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            start(name.removesuffix(".py"))
        captured = capsys.readouterr()
        return Outcome(int(exit_.value.code or 0), captured.out, captured.err)

    return call
