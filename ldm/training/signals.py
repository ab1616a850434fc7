"""Ending a training when the user or the cluster asks for it, after the step it is in."""

from __future__ import annotations

import atexit
import multiprocessing
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from ldm.distributed import any_process, connected
from ldm.training.watch import STOPPING, Watch

_DEATH = 1.0
"""Seconds for the end of a process that was killed; a read from a dead disk takes longer."""


class Interrupted(KeyboardInterrupt):
    """A training that ended because it was asked to; it can be resumed.

    Attributes:
        exit_status: for scripts: 128 + the number of the signal, as shells have it; 0 in all
            processes but the main one.
    """

    def __init__(self, message: str, exit_status: int) -> None:
        super().__init__(message)
        self.exit_status = exit_status


class Stop(BaseException):
    """The way out of Lightning's loops; no error, which code that reads data would pass over.

    Raised by all processes together after the step in which one of them was asked to end, or by one
    of which the loader is stuck.
    """


class StopSignals:
    """Remembers that SIGTERM, SIGUSR1 or SIGINT came; a second SIGINT or SIGTERM ends at once.

    A context manager: while it is open, these signals do nothing else.

    Attributes:
        received: the first that came.
        loader_stuck: the process ends because its loader gave no batch after the signal.
        last_act: called, with the reason, before the process ends at once.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.loader_stuck = False
        self.last_act: Callable[[str], None] = lambda _: None
        self._heard: bool | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._watch: Watch | None = None

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in STOPPING}
            self._watch = Watch(lambda why: self.last_act(why))
            self._watch.begin()
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        if self._watch is not None:
            self._watch.end()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before, self._watch = {}, None
        atexit.unregister(end_workers)
        atexit.register(end_workers)  # the last to be registered acts first, before torch waits

    def listen(self) -> None:
        """Take the signals, also from whoever has taken them since."""
        for number in self._before:
            signal.signal(number, self._receive)

    def exchange(self, flags: Tensor) -> list[bool]:
        """Which flags (N,) are set in any process; on the way, whether any was asked to end."""
        own = flags.new_full((1,), self.received is not None)
        *found, self._heard = any_process(torch.cat([flags, own]))
        return found

    def agreed(self, device: torch.device) -> bool:
        """True in all processes alike if one of them was asked to end.

        It is known from the last ``exchange``; without one since the last call there is one here.

        Args:
            device: that of this process.
        """
        if not connected():
            return self.received is not None
        if self._heard is None:
            self.exchange(torch.zeros(0, dtype=torch.bool, device=device))
        heard, self._heard = self._heard, None
        return bool(heard)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._watch is not None and self._watch.is_asked_to_leave(frame):
            self.loader_stuck = True
            before = signal.getsignal(signal.SIGCHLD)
            end_workers()
            signal.signal(signal.SIGCHLD, before)
            raise Stop
        if self.received is None:
            self.received = number


def end_workers() -> None:
    """End loader workers that are still reading when the program, or its patience, is over.

    They ignore SIGTERM, by which Python ends them and then waits.
    """
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler raises if a worker dies
    children = [child for child in multiprocessing.active_children() if child.daemon]
    for child in children:
        child.kill()
    for child in children:
        child.join(_DEATH)


def leave_signals_to_main_process(_worker: int) -> None:
    """For loader workers, which Ctrl-C and clusters signal too: the loop needs them to the end."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
