"""Which of several training processes this one is, and how they agree and fail together."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import torch.distributed as dist
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

_PATIENCE = 3.0
"""Seconds in which the main process reports what all processes met, and ends."""
_LAST_WORDS = 10.0
"""Seconds in which another process says why it failed, and ends."""


def is_main_process() -> bool:
    """True in the one process that writes files and speaks to the user.

    Also before Lightning has connected the processes: launchers announce the rank, and which
    computer of several this is, in the environment.
    """
    first_node = os.environ.get("NODE_RANK", "0") == "0"
    return bool(getattr(rank_zero_only, "rank", 0) == 0 and first_node)


def connected() -> bool:
    """Whether this process is one of several that can talk to each other by now."""
    return dist.is_available() and dist.is_initialized()


def any_process(flags: Tensor) -> list[bool]:
    """Whether each flag is set in any process; all call it, and their hosts wait for the devices.

    Args:
        flags: truth values (N,).
    """
    if connected():
        votes = flags.float()
        dist.all_reduce(votes)
        flags = votes > 0
    return list(flags.tolist())


def from_main_process(value: str) -> str:
    """What the main process has as ``value``; all call it, also while there is only one."""
    values = [value]
    if connected():
        dist.broadcast_object_list(values)
    return values[0]


def give_way_to_main_process() -> None:
    """Call before an error is shown: what the main process met too, it alone reports.

    It then ends, and whoever started the processes ends this one meanwhile. Returns at once in the
    main process, and after some seconds in another one that failed alone.

    Raises:
        SystemExit: another process has reported.
    """
    parent, until = os.getppid(), time.monotonic() + _PATIENCE
    while not is_main_process() and time.monotonic() < until:
        time.sleep(0.05)
        if os.getppid() != parent:  # it was the main process
            raise SystemExit(2)
    if not _first_to_speak():
        raise SystemExit(2)


def _first_to_speak() -> bool:
    """Whether no other process that torchrun started here has said before why it fails."""
    error_file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not error_file:
        return True
    mark = Path(error_file).parents[1] / "failure-reported"  # a folder of this start alone
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:
        return True
    return True


def lost_another(error: BaseException) -> bool:
    """Whether an error says that another process went away, and not what was wrong with it."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and "gloo" in str(error).lower()
    )


def end_others(trainer: Any, may_speak: bool) -> None:
    """End the processes that Lightning started from this one, which has failed.

    Args:
        trainer: Lightning's trainer.
        may_speak: one of them failed first; wait until it has said why.
    """
    running = getattr(trainer.strategy.launcher, "procs", [])
    children: list[subprocess.Popen[bytes]] = list(running)
    running.clear()  # of one in this list that ends Lightning kills this process too
    until = time.monotonic() + (_LAST_WORDS if may_speak else 0.0)
    for child in children:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(max(0.0, until - time.monotonic()))
        child.kill()
        child.wait()
