"""The command ``ldm``: its programs, and how they call themselves."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import ldm
from ldm.cli.app import FAMILIES, as_typed, main, start


def said(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[int, str]:
    """Exit status of ``ldm ARGUMENTS``, and all that it says."""
    monkeypatch.setattr(sys, "argv", ["/usr/bin/ldm", *arguments])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as exit_:
        main()
    captured = capsys.readouterr()
    return int(exit_.value.code or 0), captured.out + captured.err


def test_the_command_lists_its_programs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    status, listed = said([], capsys, monkeypatch)
    assert status == 0
    assert said(["--help"], capsys, monkeypatch) == (0, listed) == said(["-h"], capsys, monkeypatch)
    for programs in FAMILIES.values():
        for name, line in programs.items():
            assert f"  {name} " in listed
            assert line in listed
    version = said(["--version"], capsys, monkeypatch)
    assert version == (0, f"ldm {ldm.__version__}\n")


def test_a_program_that_there_is_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, hint in (("trian", "; did you mean 'train'?"), ("--frobnicate", ""), ("run.py", "")):
        line = f"error: ldm {name}: no such program{hint} (ldm --help lists them)\n"
        assert said([name, "x.yaml"], capsys, monkeypatch) == (2, line)


def test_usage_names_what_was_typed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert said(["train", "--help"], capsys, monkeypatch)[1].startswith("usage: ldm train [-h]")
    monkeypatch.setattr(sys, "argv", [str(Path("scripts", "train.py")), "--help"])
    with pytest.raises(SystemExit):
        start("train")
    assert capsys.readouterr().out.startswith("usage: train.py [-h]")


def test_texts_name_programs_as_they_were_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "use python scripts/txt2img.py, or scripts/sample.py; scripts of your own stay"
    monkeypatch.setattr(sys, "argv", [str(Path("scripts", "train.py"))])
    assert as_typed(text) == text
    for started in ("/usr/bin/ldm", str(Path("ldm", "__main__.py"))):
        monkeypatch.setattr(sys, "argv", [started])
        assert as_typed(text) == "use ldm txt2img, or ldm sample; scripts of your own stay"
