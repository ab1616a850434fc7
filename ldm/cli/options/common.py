"""Options and checks that many programs share; nothing here imports a heavy library."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ldm.cli.app import as_typed
from ldm.errors import UserError
from ldm.files import LONGEST_NAME, is_device, reason, shown


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
        UserError: a folder or device has this name, or a file that of a folder above it.
    """
    if path is None:
        return
    if os.path.isdir(path):
        raise UserError(f"{option} {shown(path)}: is a folder; name a file")
    if is_device(path):
        raise UserError(f"{option} {shown(path)}: is a device; name a file")
    _check_names(option, path)
    check_out_folder(option, path.parent)


def check_out_folder(option: str, path: Path | None) -> None:
    """Refuse a place where no folder can be, before any work; None: there is none to make.

    The nearest folder that is there is tried by a file without a name, which leaves nothing.

    Raises:
        UserError: a file has its name, or that of a folder above it; the name is too long; or
            nothing can be written there.
    """
    if path is None:
        return
    places = (path, *path.absolute().parents)
    nearest = next(place for place in places if os.path.exists(place))
    if not nearest.is_dir():
        raise UserError(f"{option} {shown(path)}: {shown(nearest)} is a file, not a folder")
    _check_names(option, path)
    try:
        with tempfile.TemporaryFile(dir=nearest) as file:
            file.write(b"?")
            file.flush()
    except OSError as error:
        raise UserError(
            f"{option} {shown(path)}: nothing can be written into {shown(nearest)} "
            f"({reason(error)}): choose another place"
        ) from error


def _check_names(option: str, path: Path) -> None:
    if any(len(os.fsencode(part)) > LONGEST_NAME for part in path.parts):
        raise UserError(
            f"{option} {shown(path)[:60]}...: a name in it has more than {LONGEST_NAME} bytes: "
            "choose a shorter one"
        )
