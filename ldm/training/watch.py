"""A thread that watches over the end of a training, for the case that its main thread cannot.

Python acts upon a signal in the main thread, between two of its instructions. One that waits for a
dead disk, or in a kernel of another library, never comes to it. So the system also tells this
thread, which asks the main thread to leave its loader, and ends the process if it has to.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

from torch.utils.data.dataloader import _BaseDataLoaderIter

from ldm.distributed import connected

STOPPING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
"""Signals that ask a training to end."""
PATIENCE, PATIENCE_TOGETHER = 5.0, 20.0
"""Seconds that a loader has for a batch after a signal; of several processes, where what was done
since the last checkpoint is lost otherwise."""
ONCE = 0.5
"""Seconds within which the same signal means the same: launchers pass on what a group got."""
GRACE = 3.0
"""Seconds in which the main thread leaves its loader when it is asked to."""
LAST_ACT = 1.0
"""Seconds for what is done before the process ends at once."""
_NEXT_BATCH = _BaseDataLoaderIter.__next__.__code__
_POLL = 0.2
_active = 0


class Watch:
    """Told of signals by the system; looks after the main thread from the first one on.

    To be made, begun and ended in the main thread. When a loader is stuck, the main thread gets the
    signal ``POKE``.

    Args:
        last_act: called with the reason, in another thread, before the process ends at once; it may
            hang.
    """

    POKE = signal.SIGUSR1

    def __init__(self, last_act: Callable[[str], None]) -> None:
        self._last_act = last_act
        self._main = threading.get_ident()
        self._seen: dict[int, float] = {}
        self._stuck: int | None = None  # the call of a loader that is to be left
        self._call: int | None = None
        self._since = self._asked = 0.0

    def begin(self) -> None:
        """Listen."""
        global _active
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._run, name="end of training", daemon=True)
        self._thread.start()
        _active += 1

    def end(self) -> None:
        """Listen no more."""
        global _active
        _active -= 1
        signal.set_wakeup_fd(self._before)
        os.write(self._write, b"\0")
        self._thread.join()
        os.close(self._read)
        os.close(self._write)

    def is_asked_to_leave(self, frame: FrameType | None) -> bool:
        """Whether a signal that came in this frame asks to leave a loader that is stuck."""
        return self._stuck is not None and _loader_call(frame) == self._stuck

    def _run(self) -> None:
        while True:
            ready, _, _ = select.select([self._read], [], [], _POLL if self._seen else None)
            numbers = os.read(self._read, 512) if ready else b""
            if 0 in numbers:
                return
            for number in numbers:
                self._hear(number)
            if self._seen:
                self._look()

    def _hear(self, number: int) -> None:
        now = time.monotonic()
        if number not in STOPPING or (number == self.POKE and self._stuck is not None):
            return
        first = self._seen.setdefault(number, now)
        if number != signal.SIGUSR1 and now - first >= ONCE:
            self._end_now(f"ended by a second {signal.Signals(number).name}, without waiting")

    def _look(self) -> None:
        now = time.monotonic()
        call = _loader_call(sys._current_frames().get(self._main))
        if call is None or call != self._call:
            self._call, self._since, self._stuck = call, now, None
            return
        patience = PATIENCE_TOGETHER if connected() else PATIENCE
        if self._stuck is None and now - self._since >= patience:
            self._stuck, self._asked = call, now
            signal.pthread_kill(self._main, self.POKE)
        elif self._stuck is not None and now - self._asked >= GRACE:
            self._end_now("the loader is stuck and cannot be left; ended without saving")

    def _end_now(self, why: str) -> None:
        number = min(self._seen, key=lambda number: self._seen[number])
        act = threading.Thread(target=self._last_act, args=(why,), daemon=True)
        act.start()
        act.join(LAST_ACT)
        for child in multiprocessing.active_children():
            if child.daemon:
                child.kill()
        os._exit(128 + number)


def _loader_call(frame: FrameType | None) -> int | None:
    """The call, in a stack, by which a batch is waited for."""
    while frame is not None:
        if frame.f_code is _NEXT_BATCH:
            return id(frame)
        frame = frame.f_back
    return None


def _leave_to_parent() -> None:
    """A process that is forked must not tell its parent's thread of its own signals."""
    if _active:
        with contextlib.suppress(ValueError):
            signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_leave_to_parent)
