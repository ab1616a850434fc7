"""A folder that one call at a time writes into."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from ldm.errors import UserError


@contextlib.contextmanager
def sole_writer(folder: Path, first: bool) -> Iterator[None]:
    """Refuse a second call that writes the same folder; a killed one leaves no trace of this.

    Args:
        folder: where to write; it is made.
        first: whether this is the first process of the call, which speaks for the others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not first:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is writing into {folder}: let it finish, or give another --out"
            ) from None
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(descriptor)
