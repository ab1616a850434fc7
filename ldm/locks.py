"""Locks: one process a folder; the system frees them however the first one ends.

A folder and its lock are claimed in one step, before anything slow: nobody asks first whether the
folder is there. A lock is a file of the folder that says who holds it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from ldm.errors import TrainingError, UserError
from ldm.files import check_regular, reason, remove_leftovers, shown

RUN_LOCK = ".lock"
"""Lock of the folder of a run."""
WRITING = ".writing"
"""Lock of a folder that a program fills with files; it is gone when the program ends."""
_BUSY = (errno.EACCES, errno.EAGAIN)
_MOST_BYTES = 4096
"""Read of a lock file, which holds one line."""
_INTRODUCTION = 1.0
"""Seconds in which the holder of a lock has said who it is."""
_TRIES = 100
"""Folders or locks that may vanish, one after the other, while they are being claimed."""
_own: dict[int, tuple[int, os.stat_result, str]] = {}
"""Locks that are held: by descriptor the process, whose children do not hold it, the file and its
absolute path."""


@contextlib.contextmanager
def run_lock(file: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Claim the folder of a run; the system frees its lock however the process ends.

    The lock says who holds it, and is empty once that one is done. Processes on other computers are
    kept out where the file system passes locks on (NFS does). A folder that holds nothing else at
    the end is as it was before: one that was made here is gone, with those above it.

    Within a process that holds the lock it may be asked for again, and is held to the end of the
    first.

    Args:
        file: the lock file; folders above it are made.
        say: called with a line if a training on another computer may still be at work.

    Raises:
        TrainingError: another process holds it; or no file can be written there.
    """
    folder = file.parent
    if _is_own(file):
        yield
        return
    with _claimed(file, TrainingError, _leave_run) as (descriptor, before):
        host = before.get("host")
        if isinstance(host, str) and host != socket.gethostname():
            say(
                f"note: {shown(folder)} was last trained by {_words(before)}, which did not end by "
                "itself: if it still runs there, stop this one now"
            )
        _introduce(descriptor)
        yield


def _leave_run(file: Path, descriptor: int) -> None:
    """Keep the lock file, empty, unless the folder holds nothing else."""
    os.ftruncate(descriptor, 0)
    if os.listdir(file.parent) == [file.name]:
        _leave_folder(file, descriptor)


def _leave_folder(file: Path, descriptor: int) -> None:
    if _named(file, descriptor):
        file.unlink()


@contextlib.contextmanager
def sole_writer(folder: Path, first: bool, called: Path | None = None) -> Iterator[None]:
    """Refuse a second call that writes the same folder; it leaves no trace in there.

    Files of writers that were killed half way are removed. Two calls that write one *file* (a
    report, an npz) need no lock: each is whole, and the later one stays.

    Args:
        folder: where to write; it is made.
        first: whether this is the first process of the call, which speaks for the others.
        called: what the user knows of, if ``folder`` stands in for it.

    Raises:
        UserError: another process is writing there, or nothing can be written there.
    """
    if not first:
        with contextlib.suppress(OSError):  # the first process says what is wrong
            folder.mkdir(parents=True, exist_ok=True)
        yield
        return
    file = folder / WRITING
    if _is_own(file):
        yield
        return
    with _claimed(file, UserError, _leave_folder, called) as (descriptor, _):
        _introduce(descriptor)
        _refuse_writers_of_old(folder)
        remove_leftovers(folder)
        yield


def _refuse_writers_of_old(folder: Path) -> None:
    """Refuse a folder that a program of an earlier release writes: it holds a lock on the folder.

    Raises:
        UserError: one does.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _BUSY:
            raise UserError(
                f"another process is writing into {shown(folder)}: let it finish, or write "
                "elsewhere"
            ) from error
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _claimed(
    file: Path,
    error: type[UserError],
    leave: Callable[[Path, int], None],
    called: Path | None = None,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Make a folder, open its lock file and hold the lock, as one step that may begin anew.

    At the end ``leave`` tidies the lock, and the folders that were made are removed where they are
    empty, also those made by processes that were refused meanwhile.

    Yields:
        The descriptor, and who held the lock before and did not end by itself.

    Raises:
        UserError: ``error``: another process holds it, or the folder cannot be written to.
    """
    made: list[Path] = []
    for _ in range(_TRIES):
        try:
            made[:0] = _make_folders(file.parent)
            descriptor = _open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        except OSError as cause:
            if isinstance(cause, FileNotFoundError) and not file.is_symlink():
                continue  # one that gave up has just removed the folder
            message = _hindrance(file, cause)
            _remove(made)
            raise error(message) from cause
        try:
            if not _take(file, descriptor, made, error, called):
                continue
            _own[descriptor] = os.getpid(), os.fstat(descriptor), os.path.abspath(file)
            try:
                yield descriptor, _holder(descriptor)
            finally:
                made = max(made, _bequeathed(file, descriptor), key=len)
                with contextlib.suppress(OSError):  # a full disk must not hide the reason
                    leave(file, descriptor)
            return
        finally:
            _own.pop(descriptor, None)
            _remove(made)  # while the lock is held: others begin anew
            os.close(descriptor)
    raise error(f"{shown(file.parent)} cannot be made: it vanishes each time")


def _make_folders(folder: Path) -> list[Path]:
    """Make a folder and those above it; which of them were not there, the innermost first."""
    made: list[Path] = []
    for place in (*reversed(folder.parents), folder):
        try:
            place.mkdir()
            made.insert(0, place)
        except FileExistsError:
            if not os.path.isdir(place):
                _remove(made)
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
        except OSError:  # such as a root that may not be written to
            if not os.path.isdir(place):
                _remove(made)
                raise
    return made


def _remove(folders: list[Path]) -> None:
    """Remove those that are empty."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _open(file: Path, how: int) -> int:
    descriptor = os.open(file, how | os.O_NONBLOCK, 0o666)
    try:
        check_regular(descriptor)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _bequeath(file: Path, descriptor: int, made: list[Path]) -> None:
    """Leave folders that were made here, and are not empty, to the holder of the lock.

    It is said in white space behind the holder's introduction: how many folders above the file.
    """
    if made:
        with contextlib.suppress(OSError):
            os.write(descriptor, b"\n" + b" " * (file.parents.index(made[-1]) + 1))


def _bequeathed(file: Path, descriptor: int) -> list[Path]:
    """The folders that others made and left to this process, the innermost first."""
    with contextlib.suppress(OSError):
        lines = os.pread(descriptor, _MOST_BYTES, 0).split(b"\n")[1:]
        return list(file.parents)[: max(map(len, lines), default=0)]
    return []


def _take(
    file: Path,
    descriptor: int,
    made: list[Path],
    error: type[UserError],
    called: Path | None,
) -> bool:
    """Take the lock; False if the file lost its name before that, and the lock its meaning.

    Raises:
        UserError: ``error``: another process holds it.
    """
    until, before = time.monotonic() + _INTRODUCTION, None
    while not _locked(descriptor):
        holder = _holder(descriptor)
        # for a moment it is one that was killed, and has a successor
        if (holder and holder == before) or time.monotonic() >= until:
            _bequeath(file, descriptor, made)
            raise _refusal(file, holder, error, called)
        before = holder
        time.sleep(0.05)
    return _named(file, descriptor)


def _is_own(file: Path) -> bool:
    """Whether this process holds this lock."""
    try:
        found = os.stat(file)
    except OSError:
        return False
    own = (stat for process, stat, _ in _own.values() if process == os.getpid())
    return any(os.path.samestat(found, stat) for stat in own)


def is_taken_over(file: Path) -> bool:
    """Whether a lock that is held here has another file under its name by now.

    The folder was removed, or the lock, and another process has claimed it anew.
    """
    name = os.path.abspath(file)
    claimed = any(process == os.getpid() and path == name for process, _, path in _own.values())
    return claimed and os.path.exists(file) and not _is_own(file)


def _named(file: Path, descriptor: int) -> bool:
    """Whether an open file still has this name, and no other file by now."""
    try:
        return os.path.samestat(os.stat(file), os.fstat(descriptor))
    except OSError:
        return False


def _locked(descriptor: int) -> bool:
    """Take a lock, unless another process holds it; a file system without locks has no others.

    Unlike flock, lockf is not passed on to loader workers, which outlive a killed training. It is
    lost where this process opens and closes the file once more.
    """
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in _BUSY
    return True


def _refusal(
    file: Path, holder: dict[str, Any], error: type[UserError], called: Path | None
) -> UserError:
    folder = shown(called or file.parent)
    if file.name == WRITING:
        return error(
            f"{folder} is being written by {_words(holder)}: let it finish, or write elsewhere"
        )
    return error(
        f"{folder} is being trained by {_words(holder)}: wait for it, stop it, or choose another "
        "name with name=..."
    )


def _hindrance(file: Path, cause: OSError) -> str:
    """Why a folder cannot be claimed."""
    if not os.path.isdir(file.parent):
        return f"{shown(file.parent)} cannot be made: {reason(cause)}"
    if isinstance(cause, FileNotFoundError):
        return (
            f"{shown(file)} stands where a lock file belongs: a link that leads nowhere; remove it"
        )
    if cause.errno in (None, errno.EISDIR, errno.ENXIO):
        return f"{shown(file)} stands where a lock file belongs: {reason(cause)}; remove it"
    return f"{shown(file.parent)}: cannot be written to: {reason(cause)}"


def _holder(descriptor: int) -> dict[str, Any]:
    """Who says to hold a lock; nothing of it is relied on."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        found = json.loads(os.pread(descriptor, _MOST_BYTES, 0))
        if isinstance(found, dict):
            return found
    return {}


def _introduce(descriptor: int) -> None:
    """Say who holds the lock, for others to read."""
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": now}
    with contextlib.suppress(OSError):  # a full disk: the lock holds without it
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)


def _words(holder: dict[str, Any]) -> str:
    known = [" ".join(str(holder.get(key)).split())[:80] for key in ("pid", "host", "since")]
    pid, host, since = known
    return f"process {pid} on {host} since {since}" if holder else "another process"
