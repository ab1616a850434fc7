"""Ending a training when the user or the cluster asks for it, after the step it is in."""

from __future__ import annotations

import atexit
import multiprocessing
import signal
import threading
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from ldm.distributed import any_process, connected

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Interrupted(KeyboardInterrupt):
    """A training that ended because it was asked to; it can be resumed.

    Attributes:
        exit_status: for scripts: 128 + the number of the signal, as shells have it; 0 in all
            processes but the main one.
    """

    def __init__(self, message: str, exit_status: int) -> None:
        super().__init__(message)
        self.exit_status = exit_status


class Stop(Exception):  # noqa: N818  (not an error: the way out of Lightning's loops)
    """Raised by all processes together after the step in which one of them was asked to end."""


class StopSignals:
    """Remembers that SIGTERM, SIGUSR1 or SIGINT came; a second SIGINT ends at once.

    A context manager: while it is open, these signals do nothing else.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._heard: bool | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in _SIGNALS}
        self.listen()
        atexit.unregister(end_workers)
        atexit.register(end_workers)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

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

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number


def end_workers() -> None:
    """End loader workers that are still reading when the program is over.

    They ignore SIGTERM, by which Python ends them and then waits.
    """
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler raises if a worker dies
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


def leave_signals_to_main_process(_worker: int) -> None:
    """For loader workers, which Ctrl-C and clusters signal too: the loop needs them to the end."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
