"""Speed of training between two readings, and where its time went."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple


class Speed(NamedTuple):
    """A reading of a ``Meter``."""

    images_per_second: float
    """Of training alone: without the time that training stood still."""
    data_wait: float
    """Share of training's time that it waited for its loader, 0 to 1."""
    overhead: float
    """Share of all time that training stood still: validation, pictures, checkpoints."""
    seconds: float
    """Of training since the last reading."""


class Meter:
    """Counts images and seconds; looks at a clock only, never at a device.

    Args:
        clock: seconds from any beginning.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._standing: float | None = None
        self._waiting: float | None = None
        self.restart()

    def restart(self) -> None:
        """Begin anew; what was counted since the last reading is forgotten."""
        self._begin = self._clock()
        self._images, self._waited, self._stood = 0, 0.0, 0.0

    def add(self, images: int) -> None:
        """So many images were trained on."""
        self._images += images

    def wait(self, begins: bool) -> None:
        """Training begins to wait for a batch, and no longer stands still; or it has it."""
        now = self._clock()
        if begins:
            self._count_standing(now)
            self._standing, self._waiting = None, now
        elif self._waiting is not None:
            self._waited += now - self._waiting
            self._waiting = None

    def stand_still(self) -> None:
        """Something else than training begins; it ends where training asks for a batch."""
        if self._standing is None:
            self._standing = self._clock()

    def read(self) -> Speed | None:
        """The speed since the last reading, or ``restart``; None if nothing was trained on."""
        now = self._clock()
        self._count_standing(now)
        seconds = now - self._begin - self._stood
        if not self._images or seconds <= 0:
            return None
        speed = Speed(
            images_per_second=self._images / seconds,
            data_wait=self._waited / seconds,
            overhead=self._stood / (now - self._begin),
            seconds=seconds,
        )
        self.restart()
        return speed

    def _count_standing(self, now: float) -> None:
        if self._standing is not None:
            self._stood += now - max(self._standing, self._begin)
            self._standing = now
