"""Locks: one process a folder; the system frees them however the first one ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import IO

from ldm.errors import TrainingError, UserError

_HELD = (errno.EACCES, errno.EAGAIN)


@contextlib.contextmanager
def run_lock(file: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of a run folder; the system frees it however the process ends.

    The file says who holds it, and is empty once that one is done. Processes on other computers are
    kept out where the file system passes locks on (NFS does).

    Args:
        file: the lock file; folders above it exist.
        say: called with a line if a training on another computer may still be at work.

    Raises:
        TrainingError: another process holds it; or no file can be written there.
    """
    try:
        opened = file.open("a+")
    except OSError as error:
        raise TrainingError(f"{file.parent}: cannot be written to: {error.strerror}") from error
    with opened:
        # Unlike flock, lockf is not passed on to loader workers, which outlive a killed training.
        if not _locked(fcntl.lockf, opened.fileno()):
            raise TrainingError(
                f"{file.parent} is being trained by {_words(_holder(opened))}: wait for it, stop "
                "it, or choose another name with name=..."
            )
        before = _holder(opened)
        if before and before.get("host") != socket.gethostname():
            say(
                f"note: {file.parent} was last trained by {_words(before)}, which did not end by "
                "itself: if it still runs there, stop this one now"
            )
        _write(opened, {"pid": os.getpid(), "host": socket.gethostname(), "since": _now()})
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # a full disk must not hide the reason of the end
                _write(opened, None)


@contextlib.contextmanager
def sole_writer(folder: Path, first: bool) -> Iterator[None]:
    """Refuse a second call that writes the same folder; it leaves no trace in there.

    Args:
        folder: where to write; it is made.
        first: whether this is the first process of the call, which speaks for the others.

    Raises:
        UserError: another process is writing there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not first:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if not _locked(fcntl.flock, descriptor):
            raise UserError(
                f"another process is writing into {folder}: let it finish, or give another --out"
            )
        yield
    finally:
        os.close(descriptor)


def _locked(lock: Callable[[int, int], object], descriptor: int) -> bool:
    """Take a lock, unless another process holds it; a file system without locks has no others."""
    try:
        lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in _HELD
    return True


def _holder(opened: IO[str]) -> dict[str, str]:
    opened.seek(0)
    try:
        return dict(json.loads(opened.read()))
    except ValueError:
        return {}


def _write(opened: IO[str], holder: dict[str, str | int] | None) -> None:
    opened.truncate(0)
    if holder is not None:
        opened.write(json.dumps(holder))
    opened.flush()


def _words(holder: dict[str, str]) -> str:
    if not holder:
        return "another process"
    return f"process {holder.get('pid')} on {holder.get('host')} since {holder.get('since')}"


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
