"""The one training process that writes and speaks, and how several meet and fail together."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_only

from ldm.distributed import meeting_point, stay_on_this_computer
from ldm.training.lightning_internals import starts_processes, take_children

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


def end_others(trainer: Any, may_speak: bool) -> None:
    """End the processes that Lightning started from this one, which has failed.

    Args:
        trainer: Lightning's trainer.
        may_speak: one of them failed first; wait until it has said why.
    """
    children = take_children(trainer)
    until = time.monotonic() + (_LAST_WORDS if may_speak else 0.0)
    for child in children:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(max(0.0, until - time.monotonic()))
        child.kill()
        child.wait()


def place_to_meet(trainer: pl.Trainer) -> AbstractContextManager[None]:
    """Where the processes of a run meet; on one computer no other one can come."""
    stay_on_this_computer()
    alone = trainer.num_nodes == 1 and "MASTER_ADDR" not in os.environ
    here = alone and starts_processes(trainer)
    return meeting_point() if here else contextlib.nullcontext()
