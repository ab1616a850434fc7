"""Errors that are meant for the person who runs a script, not for the programmer."""

from __future__ import annotations

import difflib
import errno
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

_KILLED = re.compile(
    r"DataLoader worker \(pid(?:\(s\))? [\d, ]+\) (.{1,60}?)(?:\.|$)", re.MULTILINE
)
_NO_SHARED_MEMORY = re.compile(r"unable to (?:write to file|open shared memory|mmap)")
_NO_MEMORY = re.compile(r"DefaultCPUAllocator|not enough memory|out of memory", re.IGNORECASE)
_SMALLER = (
    "give a smaller --batch-size or batch (data.params.batch_size), smaller images, or fewer "
    "loader workers (data.params.num_workers, --workers)"
)
_SCARCE = (errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE)


class UserError(ValueError):
    """Bad input: one line that says what is wrong, where, and what to do about it.

    Scripts print the line and exit with status 2; in a notebook it is an ordinary ``ValueError``.
    """


class ConfigError(UserError):
    """A configuration that cannot be built; the message names the YAML path."""


class DataError(UserError):
    """A data set, image or caption that cannot be used; the message names the item."""


class CheckpointError(UserError):
    """A checkpoint that cannot be read or does not fit; the message names file and keys."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint that is not what was written: cut short, or with bytes that changed."""


class DamagedFileError(UserError):
    """A file that is not what was written, or not of the kind that it should be; it is named."""


class TrainingError(UserError):
    """Training that must not go on; the message names the step and what was wrong."""


class UnreadableInputsError(UserError):
    """Some inputs could not be read; what was asked for was done with all others."""

    exit_status = 4


MOST_LAYERS = 256
"""Layers of a kind, one after the other, in a network: more are a slip of the hand."""


def check_number(
    name: str,
    value: Any,
    lowest: float = -math.inf,
    highest: float = math.inf,
    above: bool = False,
    below: bool = False,
) -> None:
    """Refuse what is no finite number of a range.

    Args:
        name: what it is called.
        value: the number.
        lowest: of the range.
        highest: of the range.
        above: whether ``lowest`` itself is refused.
        below: whether ``highest`` itself is refused.

    Raises:
        ConfigError: it names both ends.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    inside = number and math.isfinite(value) and lowest <= value <= highest
    if inside and not (above and value == lowest) and not (below and value == highest):
        return
    ends = []
    if lowest > -math.inf:
        ends.append(f"above {lowest:g}" if above else f"from {lowest:g}")
    if highest < math.inf:
        ends.append(f"below {highest:g}" if below else f"to {highest:g}")
    text = repr(value)
    text = text if len(text) <= 80 else f"{text[:77]}..."
    raise ConfigError(f"{name}: expected a number {' '.join(ends) or 'that is finite'}, got {text}")


def check_count(name: str, value: Any, lowest: int = 1, highest: int = 2**31 - 1) -> None:
    """Refuse what is no whole number of a range.

    Raises:
        ConfigError: it names both ends.
    """
    if type(value) is not int and not (isinstance(value, float) and value.is_integer()):
        raise ConfigError(f"{name}: expected a whole number, got {value!r}")
    if not lowest <= value <= highest:
        raise ConfigError(f"{name}: expected {lowest} to {highest}, got {value!r}")


def suggest(word: str, known: Iterable[str]) -> str:
    """The end of a message that names the nearest of the known words; "" if none is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    if not near:
        lowered = {name.lower(): name for name in known}
        near = [lowered[word.lower()]] if word.lower() in lowered else []
    return f"; did you mean {near[0]!r}?" if near else ""


def exhausted(error: BaseException) -> str | None:
    """One line about what the system had no more of, where an error of another library says so.

    Args:
        error: what was caught; what it was raised from counts, too.

    Returns:
        Memory, shared memory, processes or open files, and what helps; None: it is about none.
    """
    fewer = "use fewer loader workers (data.params.num_workers, --workers) or smaller batches"
    for one in _chain(error):
        text = str(one)
        if isinstance(one, RuntimeError) and (killed := _KILLED.search(text)):
            bus = "Bus error" in text
            why = "shared memory ran out: enlarge /dev/shm, or " if bus else "memory ran out: "
            what = killed[1].replace("is killed", "was killed")
            return f"a loader worker {what}, most often because {why}{fewer}"
        if isinstance(one, RuntimeError) and _NO_SHARED_MEMORY.search(text):
            return f"shared memory ran out: enlarge /dev/shm, or {fewer}"
        out = isinstance(one, MemoryError) or type(one).__name__ == "OutOfMemoryError"
        if out or (isinstance(one, RuntimeError) and _NO_MEMORY.search(text)):
            place = "this device" if "CUDA" in text else "this computer"
            return f"out of memory: {place} has less than is needed: {_SMALLER}"
        if isinstance(one, OSError) and one.errno in _SCARCE and one.filename is None:
            return f"no more processes, open files or memory ({one.strerror}): {fewer}"
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it was raised from."""
    for _ in range(20):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__
