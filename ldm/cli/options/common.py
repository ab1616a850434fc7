"""Options and checks that many programs share; nothing here imports a heavy library."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ldm.errors import UserError


def new_parser(program: str, description: str | None) -> argparse.ArgumentParser:
    """A parser whose help is the docstring of a program's module.

    Args:
        program: its name, for the line of usage.
        description: the docstring.
    """
    return argparse.ArgumentParser(
        prog=None if sys.argv[0].endswith(f"{program}.py") else f"ldm {program}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def check_out_file(option: str, path: Path | None) -> None:
    """Refuse a place where no file can be written, before any work; None: there is none to write.

    Raises:
        UserError: a folder has this name, or a file that of a folder above it.
    """
    if path is None:
        return
    if path.is_dir():
        raise UserError(f"{option} {path}: is a folder; name a file")
    check_out_folder(option, path.parent)


def check_out_folder(option: str, path: Path | None) -> None:
    """Refuse a place where no folder can be, before any work; None: there is none to make.

    Raises:
        UserError: a file has its name, or that of a folder above it.
    """
    if path is None:
        return
    nearest = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not nearest.is_dir():
        raise UserError(f"{option} {path}: {nearest} is a file, not a folder")
