"""Where the parts of a run lie, and what is recorded about it.

One training at a time in a run folder.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from ldm.errors import TrainingError
from ldm.files import write_atomically

_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class RunFolder:
    """Where the parts of a run lie.

    Args:
        path: the folder, ``runs/<name>``.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The resolved config."""
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        """The folder of all checkpoints."""
        return self.path / "checkpoints"

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.checkpoints / "last.ckpt"

    @property
    def previous(self) -> Path:
        """The one before the newest, for the case that the newest is damaged."""
        return self.checkpoints / "previous.ckpt"

    def kept(self, step: int) -> Path:
        """A checkpoint that stays for ever."""
        return self.checkpoints / f"step-{step}.ckpt"

    @property
    def lock(self) -> Path:
        """The file by which one process keeps others from training here."""
        return self.path / ".lock"

    @property
    def metrics(self) -> Path:
        """All logged numbers, a JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def curves(self) -> Path:
        """The loss curves as a picture."""
        return self.path / "curves.png"

    @property
    def samples(self) -> Path:
        """Picture grids drawn during training."""
        return self.path / "samples"

    def resumable(self) -> list[Path]:
        """The checkpoints there are, the one to continue with first."""
        first = [self.last, self.previous]
        others = [file for file in self.checkpoints.glob("*.ckpt") if file not in first]
        return [file for file in first if file.exists()] + sorted(others, key=_age)

    def remove_leftovers(self) -> None:
        """Delete the temporary files of a writer that was killed; only its successor may."""
        for folder in (self.path, self.checkpoints):
            for file in folder.glob(".*.tmp"):
                file.unlink(missing_ok=True)

    def status(self) -> dict[str, Any]:
        """What ``status.json`` says: state, step, hashes of what the run builds on, resumptions.

        Raises:
            TrainingError: it is not readable as such.
        """
        file = self.path / "status.json"
        if not file.exists():
            return {}
        try:
            return dict(json.loads(file.read_text()))
        except ValueError as error:
            raise TrainingError(
                f"{file} is damaged: {error}; delete it (hashes and times of the run are lost)"
            ) from error

    def write_status(self, **values: Any) -> None:
        """Update ``status.json`` in one move."""
        text = json.dumps(self.status() | values, indent=2) + "\n"
        write_atomically(self.path / "status.json", lambda file: file.write(text.encode()))

    @property
    def complete(self) -> bool:
        """True once training reached its last step."""
        return self.status().get("state") == "complete"

    def trouble(self, error: OSError) -> str | None:
        """One line about why nothing can be written to the folder; None: it is not about that."""
        if not self.config.exists():
            return f"{self.path} was removed or renamed while it was trained"
        if error.errno in _FULL:
            free = shutil.disk_usage(self.path).free / 1e6
            return (
                f"{self.path}: the disk is full ({free:.0f} MB free; {error.strerror}): make room "
                f"and continue with --resume {self.path}"
            )
        place = Path(str(error.filename)).absolute()
        if error.filename is not None and self.path.absolute() in place.parents:
            return f"{error.filename} cannot be written: {error.strerror}"
        return None


def _age(file: Path) -> float:
    try:
        return -file.stat().st_mtime
    except FileNotFoundError:  # the main process has just renamed it
        return 0.0


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
        _acquire(opened, file.parent)
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


def _acquire(opened: IO[str], folder: Path) -> None:
    try:
        # Unlike flock, this is not passed on to loader workers, which outlive a killed training.
        fcntl.lockf(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _HELD:
            return  # a file system without locks: the note about other hosts is all there is
        raise TrainingError(
            f"{folder} is being trained by {_words(_holder(opened))}: wait for it, stop it, or "
            "choose another name with name=..."
        ) from None


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
