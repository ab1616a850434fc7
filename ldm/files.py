"""Files that are written completely or not at all."""

from __future__ import annotations

import contextlib
import os
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_atomically(
    path: str | Path, write: Callable[[BinaryIO], object], keep: Path | None = None
) -> None:
    """Let ``write`` fill a temporary file beside ``path``, which then takes the name ``path``.

    A crash or a power cut leaves the old file or the new one under the name, never half of one.

    Args:
        path: the file; folders above it are made.
        write: called with the opened temporary file.
        keep: name, in the same folder, under which the file that was there before stays.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")  # the next attempt replaces what a kill left
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            _second_name(path, keep)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _second_name(path: Path, name: Path) -> None:
    """Give a file one more name, or only that one where files cannot have two."""
    name.unlink(missing_ok=True)
    try:
        os.link(path, name)
    except OSError:
        os.replace(path, name)


def _sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def configs_folder() -> Path:
    """The configurations that come with the library: the clone's, else those of a wheel."""
    clone = Path(__file__).resolve().parents[1] / "configs"
    return clone if clone.is_dir() else Path(sysconfig.get_path("data")) / "share/ldm/configs"
