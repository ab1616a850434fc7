"""Processes that are forked end with the one that forked them, however that ends.

Workers of a loader look for their parent between two items only: one that is stuck in a read would
stay for ever when the parent gets SIGTERM or is killed.
"""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import sys
import threading

_PR_SET_PDEATHSIG = 1
_parent = 0
"""Process that forks, where it does so in its main thread; else 0."""


@functools.cache
def end_children_with_their_parent() -> None:
    """From now on children that this process forks get SIGKILL when it ends; Linux only.

    The system takes the end of a *thread* for that of the parent: children of others than the main
    one stay as they are. Programs that are started by ``exec`` of another process are not meant.
    """
    if sys.platform == "linux":
        os.register_at_fork(before=_remember, after_in_child=_end_with_parent)


def _remember() -> None:
    global _parent
    main = threading.current_thread() is threading.main_thread()
    _parent = os.getpid() if main else 0
    _libc()  # the child is to load nothing


def _end_with_parent() -> None:
    if not _parent:
        return
    _libc().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != _parent:  # it ended meanwhile
        os._exit(128 + signal.SIGKILL)


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)
