"""Files: written completely or not at all, read without waiting and with plain errors.

``write_atomically`` is behind every file that a program leaves. What others may have put on the
disk is opened by ``open_regular``, which never waits: a named pipe under the name of a file is an
error. Texts are UTF-8, with or without a byte order mark, or UTF-16 or UTF-32 with one.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from ldm.errors import CheckpointError, UserError

TEMPORARY = ".tmp"
"""Ending of the hidden files that are being written."""
MOST_TEXT = 1 << 30
"""Most bytes that a text or JSON file may have."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says of writing, where it does not say to which file."""
_DEEPEST = 100
"""Levels that a record may have."""
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_MARKS = {  # the mark of UTF-32 begins with that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), 127)}
LONGEST_NAME = 255
"""Bytes that the name of a file may have on the file systems of today."""
_OWN = re.compile(rf"\..*\.[0-9a-f]{{8}}{re.escape(TEMPORARY)}", re.DOTALL)
"""Names that ``temporary_beside`` gives."""
_OLD = 3600.0
"""Seconds after which a temporary file that nobody can lock counts as left behind."""
_tidied: set[Path] = set()
"""Folders that this process has looked through for files that were left behind."""


def write_atomically(
    path: str | Path, write: Callable[[BinaryIO], object], keep: Path | None = None
) -> None:
    """Let ``write`` fill a temporary file beside ``path``, which then takes the name ``path``.

    A crash or a power cut leaves the old file or the new one under the name, never half of one;
    of several writers one wins, and its file is whole. What a killed writer leaves behind is
    removed by the next one in the same folder.

    Args:
        path: the file; folders above it are made.
        write: called with the opened temporary file.
        keep: name, in the same folder, under which the file that was there before stays.

    Raises:
        OSError: nothing can be written there, or a device such as ``/dev/null`` has this name: as
            root a file would take its place, for all programs of the computer.
    """
    path = Path(path)
    if is_device(path):
        raise OSError(errno.EEXIST, "it is a device, no place for a file", os.fspath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.parent not in _tidied:
        _tidied.add(path.parent)
        remove_leftovers(path.parent)
    temporary, file = _new_temporary(path)
    try:
        with file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            _keep_as(path, keep)
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _NO_ROOM and error.filename is None:
            error.filename = os.fspath(path)
        raise
    _sync_folder(path.parent)


def is_device(path: str | Path) -> bool:
    """Whether a device has this name, or is where a link of this name leads; all in ``/dev`` is."""
    if os.path.realpath(os.path.dirname(os.path.abspath(path))) == "/dev":
        return True
    try:
        kind = stat.S_IFMT(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False
    return kind in (stat.S_IFCHR, stat.S_IFBLK)


def _new_temporary(path: Path) -> tuple[Path, BinaryIO]:
    """A locked file under a temporary name: the lock says that its writer lives."""
    while True:
        temporary = temporary_beside(path)
        file = temporary.open("xb")
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return temporary, file
        file.close()  # somebody took it for left behind before it was locked


def remove_leftovers(folder: Path, alone: bool = False) -> None:
    """Remove temporary files in a folder whose writers were killed; of living ones they stay.

    Args:
        folder: where.
        alone: nobody else writes there: links may go, too, and hidden files with the ending
            ``.tmp`` and another name, as earlier releases wrote them.
    """
    try:
        names = [entry.name for entry in os.scandir(folder) if entry.name.endswith(TEMPORARY)]
    except OSError:
        return
    for name in names:
        if _OWN.fullmatch(name) or (alone and name.startswith(".")):
            with contextlib.suppress(OSError):
                _remove_if_left(folder / name, alone)


def _remove_if_left(file: Path, alone: bool) -> None:
    if file.is_symlink():  # nobody can lock it
        if alone or time.time() - file.lstat().st_mtime > _OLD:
            file.unlink()
        return
    descriptor = os.open(file, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        check_regular(descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            age = time.time() - os.fstat(descriptor).st_mtime
            if error.errno in (errno.EACCES, errno.EAGAIN) or age < _OLD:
                return
        file.unlink()
    finally:
        os.close(descriptor)


def temporary_beside(path: Path) -> Path:
    """A hidden name in the folder of ``path`` that nothing else has, no longer than names may be.

    Names of one ``path`` begin alike, so that ``remove_leftovers`` of its folder finds them.
    """
    end = f".{secrets.token_hex(4)}{TEMPORARY}"
    begin = os.fsencode(path.name)[: LONGEST_NAME - len(end) - 1].decode(errors="ignore")
    return path.with_name(f".{begin}{end}")


def fitting_name(begin: str, end: str = "", room: int = LONGEST_NAME) -> str:
    """``begin + end`` as the name of a file; a hash of ``begin`` stands for what is too much of it.

    The same names give the same ones, different names different ones; a name that fits stays as it
    is.

    Args:
        begin: text of any length, such as the name of another file.
        end: stays whole.
        room: bytes that the name may have.
    """
    try:
        encoded = os.fsencode(begin)
    except UnicodeEncodeError:  # half a character, of a JSON file
        begin = begin.encode("utf-8", "backslashreplace").decode()
        encoded = begin.encode()
    room -= len(os.fsencode(end))
    if len(encoded) <= room:
        return begin + end
    digest = f"-{hashlib.sha256(encoded).hexdigest()[:16]}"
    return encoded[: room - len(digest)].decode(errors="ignore") + digest + end


def write_text(path: str | Path, text: str) -> None:
    """Let a file hold a text in UTF-8, see ``write_atomically``.

    Names of files that are not UTF-8 keep their bytes.
    """
    write_atomically(path, lambda file: file.write(text.encode("utf-8", "surrogateescape")))


def give_second_name(path: Path, name: Path) -> None:
    """Let ``name`` in the same folder lead to the file ``path`` too, or to a copy of it.

    What had the name before goes in the same moment.
    """
    try:
        _link(path, name)
    except OSError:  # a file system where files have one name

        def copy(file: BinaryIO) -> None:
            with open_regular(path) as source:
                shutil.copyfileobj(source, file, 1 << 20)

        write_atomically(name, copy)


def _keep_as(path: Path, name: Path) -> None:
    """Let a file that is about to be replaced be there under another name."""
    try:
        _link(path, name)
    except OSError:
        os.replace(path, name)


def _link(path: Path, name: Path) -> None:
    temporary = temporary_beside(name)
    os.link(path, temporary)
    try:
        os.replace(temporary, name)
    finally:
        temporary.unlink(missing_ok=True)  # two names of one file: the system keeps both


def _sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def open_regular(path: str | Path) -> BinaryIO:
    """Open a file for reading; unlike ``open`` it never waits for the other end of a pipe.

    Raises:
        OSError: it cannot be opened, or is no regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        check_regular(descriptor)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def check_regular(descriptor: int) -> None:
    """Refuse what is open but no regular file.

    Raises:
        OSError: it says what it is instead.
    """
    kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
    if kind != stat.S_IFREG:
        raise OSError(f"it is {_KINDS.get(kind, 'something else')}, not a file")


def stand_in(path: str | Path) -> str:
    """What servers and git have left in place of a large file, for a message; "": nothing known."""
    with contextlib.suppress(OSError), open_regular(path) as file:
        begin = file.read(64).lstrip().lower()
        if begin.startswith(b"version https://git-lfs"):
            return "is a pointer of Git LFS, not the file: git lfs pull fetches it"
        if begin.startswith((b"<!doctype", b"<html", b"<?xml")):
            return "is a web page, not the file: fetch it anew"
    return ""


def read_bytes(path: str | Path, most: int = MOST_TEXT) -> bytes:
    """Content of a regular file.

    Args:
        path: the file.
        most: bytes that it may have.

    Raises:
        OSError: it cannot be read, is no regular file, or is larger.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise OSError(f"it has {size} bytes, more than the {most} that are read")
        return file.read()


def read_text(path: str | Path, most: int = MOST_TEXT, errors: str = "strict") -> str:
    """Content of a text file, see ``text_of``; line ends as they are.

    Raises:
        OSError: see ``read_bytes``.
        UnicodeDecodeError: it is no text.
    """
    return text_of(read_bytes(path, most), errors)


def text_of(data: bytes, errors: str = "strict") -> str:
    """The text that bytes stand for: UTF-8, or what their byte order mark says; without the mark.

    Args:
        data: content of a file.
        errors: what bytes that are not UTF-8 do: ``strict`` = raise; ``surrogateescape`` = stay as
            they are, in names of files.

    Raises:
        UnicodeDecodeError: they are no text: of another encoding, or with zero bytes.
    """
    encoding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), "utf-8-sig")
    text = data.decode(encoding, errors if encoding == "utf-8-sig" else "strict")
    if "\0" in text:
        place = data.index(b"\0")
        raise UnicodeDecodeError("utf-8", data, place, place + 1, "a zero byte is no text")
    return text


def shown(path: str | Path) -> str:
    r"""A path as messages and pictures show it: bytes that are not UTF-8 as ``\xe9``, one line."""
    try:
        text = os.fsencode(path).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # of a JSON file: no file can have such a name
        text = os.fspath(path).encode("ascii", "backslashreplace").decode()
    return text.translate(_CONTROLS)


def path_from(folder: str | Path, target: str | Path) -> str:
    """A path as seen from a folder, so that both may be moved together; "": it is not there."""
    if not os.path.exists(target):
        return ""
    return os.path.relpath(os.path.realpath(target), os.path.realpath(folder))


def reason(error: BaseException) -> str:
    """What an error says about a file, in one line and without the name of the file."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return lines[0].strip()[:200] if lines else type(error).__name__


def read_json(
    path: str | Path,
    error: type[UserError] = UserError,
    where: str = "",
    remedy: str = "",
    table: bool = False,
    shape: Any = None,
) -> Any:
    """Content of a JSON file.

    Args:
        path: the file.
        error: what is raised.
        where: what a message calls the file; "": its path.
        remedy: what to do, the end of the message.
        table: refuse all but an object of JSON, which comes back as a dict.
        shape: the form of a record, see ``fits``; refuse all that has another one.

    Raises:
        UserError: ``error``: the file is absent, damaged, or no such object.
    """
    try:
        content = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as cause:
        message = f"{where or shown(path)}: cannot be read as JSON: {reason(cause)}"
        raise error(message + (remedy and f"; {remedy}")) from cause
    if table and not isinstance(content, dict):
        message = f"{where or shown(path)}: expected values by name, got {type(content).__name__}"
        raise error(message + (remedy and f"; {remedy}"))
    if shape is not None and not (fits(content, shape) and not _is_deep(content)):
        message = f"{where or shown(path)}: is JSON, but not of the kind that is expected here"
        raise error(message + (remedy and f"; {remedy}"))
    return content


def fits(content: Any, shape: Any) -> bool:
    """Whether values of a JSON file have a form.

    Args:
        content: the values.
        shape: a type (``object`` is any, a truth value is no number), ``[shape]`` of all items,
            keys with shapes that a mapping holds among others, or a tuple of alternatives.
    """
    if isinstance(shape, tuple):
        return any(fits(content, one) for one in shape)
    if isinstance(shape, list):
        return isinstance(content, list) and all(fits(item, shape[0]) for item in content)
    if isinstance(shape, dict):
        return isinstance(content, dict) and all(
            key in content and fits(content[key], one) for key, one in shape.items()
        )
    return isinstance(content, shape) and (shape in (bool, object) or type(content) is not bool)


def _is_deep(content: Any) -> bool:
    """Whether values are nested deeper than any record is."""
    level = [content]
    for _ in range(_DEEPEST):
        pairs = (item.values() if isinstance(item, dict) else item for item in level)
        level = [child for pair in pairs for child in pair if isinstance(child, dict | list)]
        if not level:
            return False
    return True


def file_sha256(path: Path) -> str:
    """SHA-256 of a file as a hex digest.

    Raises:
        CheckpointError: there is no such file.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint file")
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
