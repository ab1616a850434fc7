"""Several processes that share the work of one script, started by torchrun.

What several processes of ``torch.distributed`` tell each other; one process is alone.
"""

from __future__ import annotations

import atexit
import functools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from ldm.errors import UserError

T = TypeVar("T")

PATIENCE = timedelta(hours=12)
"""How long a process may wait for the others. One that ends is noticed at once; this is for one
that hangs, and must be longer than one batch takes."""
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Processes:
    """This process among those that torchrun started; the only one without torchrun.

    Attributes:
        rank: its number.
        count: how many there are.
        store: numbers that all of them see.
    """

    rank: int
    count: int
    store: dist.Store

    @staticmethod
    def join() -> Processes:
        """Find out from the environment who there is, and meet the others."""
        return Processes(0, 1, dist.HashStore()) if _started() == 1 else _meet()

    @property
    def first(self) -> bool:
        """Whether this is the process that talks, and writes what exists once."""
        return self.rank == 0

    def from_first(self, make: Callable[[], T]) -> T:
        """What ``make`` gives in the first process; if it raises there, all end."""
        if self.count == 1:
            return make()
        told: list[Any] = [None, True]
        if self.first:
            try:
                told = [make(), False]
            except UserError:
                dist.broadcast_object_list(told)
                raise
        dist.broadcast_object_list(told)
        if told[1]:
            raise SystemExit(2)  # the first process says why
        result: T = told[0]
        return result

    def add_done(self, amount: int) -> int:
        """Add to the number of things that all processes have done, and return it."""
        return int(self.store.add("done", amount))

    def wait(self, meanwhile: Callable[[], object]) -> None:
        """Wait until all processes have come here, and call ``meanwhile`` now and then.

        Raises:
            UserError: another process has ended before.
        """
        if self.count == 1:
            return
        work = dist.barrier(async_op=True)
        while not work.is_completed():
            meanwhile()
            time.sleep(POLL_SECONDS)
        try:
            work.wait()
        except RuntimeError as error:
            raise UserError(
                "another of the processes has ended too early, see what it said: repeat the call, "
                "it goes on where it stopped"
            ) from error
        meanwhile()


@functools.cache
def _meet() -> Processes:
    store, rank, count = next(dist.rendezvous("env://", timeout=PATIENCE))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=count, timeout=PATIENCE)
    atexit.register(dist.destroy_process_group)  # its threads abort an interpreter that ends first
    return Processes(rank, count, store)


def _started() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def own_device(device: str | None) -> str:
    """The device of this process: ``cuda`` is a GPU for each process of a machine.

    Args:
        device: what --device says; None is the accelerator if there is one.

    Raises:
        UserError: this machine has no such device, or there are more processes than GPUs.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise UserError(f"--device {device}: not available on this machine") from None
    if device != "cuda" or _started() == 1:
        return device
    index, available = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if index >= available:
        raise UserError(
            f"process {index} has no GPU of its own, there are {available}: give torchrun "
            f"--nproc-per-node {available}, or --device cuda:0 to share one"
        )
    return f"cuda:{index}"


def rank_and_count() -> tuple[int, int]:
    """The number of this process, and how many there are."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def to_first(value: T) -> list[T]:
    """The values of all processes, in their order, in the first one; elsewhere only its own."""
    rank, count = rank_and_count()
    if count == 1:
        return [value]
    found: list[T] | None = [value] * count if rank == 0 else None
    dist.gather_object(value, found)
    return [value] if found is None else found


def to_all(value: T) -> list[T]:
    """The values of all processes, in their order, everywhere."""
    _, count = rank_and_count()
    if count == 1:
        return [value]
    found = [value] * count
    dist.all_gather_object(found, value)
    return found


def raise_together(error: UserError | None) -> None:
    """Raise the error that any of the processes has met, in all of them.

    Raises:
        UserError: its own error, else that of the process with the lowest number.
    """
    for met in [error, *to_all(error)]:
        if met is not None:
            raise met
