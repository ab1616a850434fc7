"""Reading and decoding in threads, while a network works on what was read before."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

MOST_THREADS = 8
_AHEAD = 4
"""Results that wait per thread."""


def read_ahead(read: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """``map(read, items)`` by a few threads: in order, with bounded memory.

    It pays where ``read`` leaves the interpreter's lock: files, hashes, Pillow's decoders.
    """
    threads = min(MOST_THREADS, os.cpu_count() or 1)
    pool = ThreadPoolExecutor(threads)
    pending: deque[Future[R]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(read, item))
            if len(pending) >= threads * _AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
