"""How many threads of a processor compute, and how they wait for each other.

Between two parallel regions of a program the threads of OpenMP spin, by default for milliseconds,
so that the next one begins at once. Where another program wants the core, the thread that has work
waits for those that spin. So they spin while the cores are free, and sleep while they are not.
Neither changes a result: how many threads there are stays.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

_QUOTAS = Path("/sys/fs/cgroup/cpu.max")
_TIMES = Path("/proc/stat")
PERIOD = 1.0
"""Seconds between two looks at what others do."""
CROWDED = 0.25
"""Cores that are wanted beyond those that there are."""


def cores() -> int:
    """Cores that this process may run on."""
    return len(_numbers())


def _numbers() -> set[int]:
    """Their numbers, as the system counts cores."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def set_threads(quotas: Path = _QUOTAS) -> None:
    """Keep to the share of the cores that a container may use, of which PyTorch does not know.

    To be called before PyTorch is imported, which reads it once; what the user has set stays.

    Args:
        quotas: file with the microseconds of processor time in a period, and the period.
    """
    share = _share(quotas)
    if share is not None and "OMP_NUM_THREADS" not in os.environ and share < cores():
        os.environ["OMP_NUM_THREADS"] = str(max(1, math.ceil(share)))


def _share(quotas: Path) -> float | None:
    """Cores whose time may be used; None: all."""
    try:
        quota, period = quotas.read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # absent, or "max"
        return None


class Load:
    """Cores that other processes use, loader workers of this one included, between two looks.

    Those count that this process may run on: what others do elsewhere is not in its way.

    Args:
        times: file in which Linux counts the time of all cores.
    """

    def __init__(self, times: Path = _TIMES) -> None:
        self._times = times
        self._last = self._look()

    def _look(self) -> tuple[int, float, float, float]:
        names = {f"cpu{number}" for number in _numbers()}
        with self._times.open() as file:
            rows = [line.split() for line in file if line.startswith("cpu")]
        # A container may be shown other numbers than those of its cores; the first row is the sum.
        rows = [row for row in rows if row[0] in names] or rows[1:]
        times = (tuple(map(int, row[1:8])) for row in rows)
        user, nice, system, idle, iowait, irq, softirq = map(sum, zip(*times, strict=True))
        busy = user + nice + system + irq + softirq
        return len(rows), float(busy), float(busy + idle + iowait), sum(os.times()[:2])

    def others(self) -> float:
        """Cores used since the last look.

        Raises:
            OSError: the file cannot be read.
            ValueError: it has another form.
        """
        now = self._look()
        count = now[0]
        busy, total, own = (b - a for a, b in zip(self._last[1:], now[1:], strict=True))
        if count != self._last[0]:  # others were added or taken
            total = 0.0
        self._last = now
        ticks = os.sysconf("SC_CLK_TCK")
        return max(0.0, (busy - own * ticks) / total * count) if total > 0 else 0.0


class Patience:
    """Lets the threads of OpenMP sleep at once, while it is ``on``, rather than spin.

    GNU's OpenMP, that of PyTorch's wheels for Linux, lets its threads spin for a moment only as
    soon as a program has more of them than there are cores. One thread that has once computed in
    parallel, and then rests, makes them so many. Elsewhere it changes nothing.
    """

    def __init__(self) -> None:
        self._end = threading.Event()
        self._resting: threading.Thread | None = None

    @property
    def on(self) -> bool:
        """Whether they sleep."""
        return self._resting is not None

    def set(self, on: bool) -> None:
        """Let them sleep, or spin."""
        if on and self._resting is None:
            self._end.clear()
            thread = threading.Thread(target=_rest, args=(self._end,), daemon=True)
            thread.start()
            self._resting = thread
        elif not on and self._resting is not None:
            self._end.set()
            self._resting.join()  # a process that ends while a thread computes is aborted
            self._resting = None


def _rest(end: threading.Event) -> None:
    import torch

    torch.ones(2**20).sum()  # in parallel
    end.wait()


@contextlib.contextmanager
def considerate(load: Callable[[], Load] = Load, period: float = PERIOD) -> Iterator[Patience]:
    """Inside a ``with`` block look at what others do, and have threads wait accordingly.

    Args:
        load: makes what tells how many cores others use.
        period: seconds between two looks.
    """
    patience, end = Patience(), threading.Event()
    watcher = threading.Thread(target=_watch, args=(patience, end, load, period), daemon=True)
    watcher.start()
    try:
        yield patience
    finally:
        end.set()
        watcher.join()


def _watch(
    patience: Patience, end: threading.Event, load: Callable[[], Load], period: float
) -> None:
    with contextlib.suppress(OSError, ValueError):  # a system that does not count the time so
        seen = load()
        while not end.wait(period):
            patience.set(_crowded(seen.others()))
    patience.set(False)


def _crowded(others: float) -> bool:
    """Whether more cores are wanted than there are; PyTorch may not be loaded yet."""
    torch = sys.modules.get("torch")
    threads = getattr(torch, "get_num_threads", lambda: 1)()
    return bool(threads > 1 and threads + others > cores() + CROWDED)
