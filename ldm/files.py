"""Files: written completely or not at all, by one process at a time, read with plain errors.

``write_atomically`` is behind every file that a program leaves. ``run_lock`` and ``sole_writer``
keep a second process out of a folder; the system frees both however the first one ends.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import socket
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import IO, Any, BinaryIO

from ldm.errors import CheckpointError, TrainingError, UserError

RUN_FILES, IN_RUN = "files", "run://"
"""Folder of a run with what its model needs besides weights; its config names ``run://NAME``."""
_TEXTS = (".txt", ".json", ".gz")
"""Endings of files that are looked for in further places."""
_DATA = ("data", "uncached")
"""Parts of a config that describe data."""
_HELD = (errno.EACCES, errno.EAGAIN)


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


def write_text(path: str | Path, text: str) -> None:
    """Let a file hold a text in UTF-8, see ``write_atomically``."""
    write_atomically(path, lambda file: file.write(text.encode()))


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


def read_json(
    path: str | Path,
    error: type[UserError] = UserError,
    where: str = "",
    remedy: str = "",
    table: bool = False,
) -> Any:
    """Content of a JSON file.

    Args:
        path: the file.
        error: what is raised.
        where: what a message calls the file; "": its path.
        remedy: what to do, the end of the message.
        table: refuse all but an object of JSON, which comes back as a dict.

    Raises:
        UserError: ``error``: the file is absent, damaged, or no such object.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as cause:
        reason = str(cause).splitlines()[0][:200] if str(cause) else type(cause).__name__
        message = f"{where or path}: cannot be read as JSON: {reason}"
        raise error(message + (remedy and f"; {remedy}")) from cause
    if table and not isinstance(content, dict):
        message = f"{where or path}: expected values by name, got {type(content).__name__}"
        raise error(message + (remedy and f"; {remedy}"))
    return content


def file_sha256(path: Path) -> str:
    """SHA-256 of a file as a hex digest.

    Raises:
        CheckpointError: there is no such file.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint file")
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


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


def with_places(tree: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Plain values of a config file, whose files are found from any working directory.

    ``run://NAME`` lies in the folder ``files`` beside the config. The relative path of a text that
    is not in the working directory is looked for beside the config, in the two folders above (that
    of a run in ``runs/NAME`` is where it was trained) and in the clone of this library; but not in
    ``data``, whose paths may be relative to a folder of its own.

    Args:
        tree: mappings, lists and values by name.
        folder: that of the config file.
    """
    folder = folder.absolute()
    places = (folder, *folder.parents[:2], configs_folder().parent)

    def found(value: Any, search: bool) -> Any:
        if isinstance(value, dict):
            return {key: found(child, search) for key, child in value.items()}
        if isinstance(value, list):
            return [found(child, search) for child in value]
        if isinstance(value, str) and value.startswith(IN_RUN):
            return str(folder / RUN_FILES / value.removeprefix(IN_RUN))
        if search and is_absent_text(value):
            files = (place / value for place in places)
            return next((str(file) for file in files if file.is_file()), value)
        return value

    described = {key for key, value in tree.items() if isinstance(value, dict)} - set(_DATA)
    return {key: found(value, key in described) for key, value in tree.items()}


def is_absent_text(value: Any) -> bool:
    """Whether it reads like the relative path of a text that is not in the working directory."""
    if not (isinstance(value, str) and value.endswith(_TEXTS)) or "$" in value or "\n" in value:
        return False
    return not value.startswith(("/", "~")) and not Path(value).exists()


def searched(message: str, values: Iterable[Any]) -> str:
    """Where such a path that a message names was looked for, as its end; "": it names none."""
    absent = next((text for text in filter(is_absent_text, values) if text in message), None)
    clone = configs_folder().parent
    where = f"in {Path.cwd()}, beside the config file, in two folders above it and in {clone}"
    return "" if absent is None else f" ({absent} was looked for {where})"


def configs_folder() -> Path:
    """The configurations that come with the library: the clone's, else those of a wheel."""
    clone = Path(__file__).resolve().parents[1] / "configs"
    return clone if clone.is_dir() else Path(sysconfig.get_path("data")) / "share/ldm/configs"
