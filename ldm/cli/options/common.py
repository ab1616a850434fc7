"""Options and checks that many programs share; nothing here imports a heavy library."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ldm.cli.app import as_typed
from ldm.errors import UserError


def new_parser(program: str, description: str | None) -> argparse.ArgumentParser:
    """A parser whose help is the docstring of a program's module.

    Args:
        program: its name, for the line of usage.
        description: the docstring.
    """
    return argparse.ArgumentParser(
        prog=None if sys.argv[0].endswith(f"{program}.py") else f"ldm {program}",
        description=as_typed(description or ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def check_at_least(options: argparse.Namespace, least: int, *names: str) -> None:
    """Refuse numbers below a bound; None is an option that was left out.

    Args:
        options: of the command line.
        least: the bound.
        names: of the options, as attributes.

    Raises:
        UserError: it names the option.
    """
    for name in names:
        value = getattr(options, name)
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be at least {least}")


def check_side_lengths(option: str, size: Sequence[int] | None) -> None:
    """Refuse a height or width that is not positive; None: the option was left out.

    Raises:
        UserError: it names the option.
    """
    if size is not None and min(size) < 1:
        raise UserError(f"{option} {size[0]} {size[1]}: must be positive")


def check_file(option: str, path: Path | None, about: str = "") -> None:
    """Refuse a file that is not there, before any work; None: there is none to read.

    Args:
        option: its name.
        path: the file.
        about: what it should hold, for the message.

    Raises:
        UserError: there is no such file.
    """
    if path is not None and not path.is_file():
        raise UserError(f"{option} {path}: no such file{about}")


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
