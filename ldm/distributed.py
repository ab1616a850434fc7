"""Several processes that work together: who this one is, and what they tell each other.

The functions ask ``torch.distributed``, whoever has set it up: ``Processes.join`` for a program
that torchrun started, Lightning in training. A process without others is the first of one.
Functions that exchange something must be called by all processes, in the same order.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ldm.errors import UserError

T = TypeVar("T")

PATIENCE = timedelta(hours=12)
"""How long a process may wait for the others. One that ends is noticed at once; this is for one
that hangs, and must be longer than one batch takes."""
POLL_SECONDS = 0.5
_LOCALHOST = "127.0.0.1"


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


@contextlib.contextmanager
def meeting_point() -> Iterator[None]:
    """Let processes that this one starts meet where no other computer reaches them.

    torch lets the first process listen on all interfaces for the others. Here this process listens
    on the loopback interface before, and tells torch, as torchrun does, that somebody does already.
    At the end the environment is as it was.
    """
    with contextlib.ExitStack() as kept:
        listener = kept.enter_context(socket.socket())
        listener.bind((_LOCALHOST, 0))
        listener.listen()
        port = listener.getsockname()[1]
        store = dist.TCPStore(
            _LOCALHOST, port, is_master=True, wait_for_workers=False,
            master_listen_fd=os.dup(listener.fileno()),
        )  # fmt: skip
        changed = {
            "MASTER_ADDR": _LOCALHOST,
            "MASTER_PORT": str(port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            **_loopback(),
        }
        before = {name: os.environ.get(name) for name in changed}
        os.environ.update(changed)
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value
            del store  # until now it answered


def stay_on_this_computer() -> None:
    """Talk over the loopback interface if torchrun started all processes on this computer.

    The processes talk to each other directly then; torchrun itself listens on all interfaces.
    """
    if _started() > 1 and os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]:
        os.environ.update(_loopback())


def _loopback() -> dict[str, str]:
    """Settings that keep the libraries to the loopback interface, unless the user has others."""
    found = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
    names = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    return {name: found[0] for name in names if found and name not in os.environ}


@functools.cache
def _meet() -> Processes:
    stay_on_this_computer()
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


def connected() -> bool:
    """Whether this process is one of several that can talk to each other by now."""
    return dist.is_available() and dist.is_initialized()


def rank_and_count() -> tuple[int, int]:
    """The number of this process, and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if connected() else (0, 1)


def announced_rank_and_count() -> tuple[int, int]:
    """The same, before they are connected as the launcher says in the environment."""
    return rank_and_count() if connected() else (int(os.environ.get("RANK", 0)), _started())


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum over all processes, in place; returns ``values``."""
    if connected():
        dist.all_reduce(values)
    return values


def mean_over_processes(values: Tensor) -> Tensor:
    """The mean over all processes; ``values`` may be overwritten."""
    _, count = rank_and_count()
    return values if count == 1 else sum_over_processes(values) / count


def any_process(flags: Tensor) -> list[bool]:
    """Whether each flag is set in any process; the hosts wait for their devices.

    Args:
        flags: truth values (N,).
    """
    if connected():
        flags = sum_over_processes(flags.float()) > 0
    return list(flags.tolist())


def broadcast(values: Tensor, rank: int = 0) -> Tensor:
    """Overwrite ``values`` by those of one process; returns them."""
    if connected():
        dist.broadcast(values, rank)
    return values


def from_main_process(value: T) -> T:
    """What the first process has as ``value``, which can be pickled."""
    values = [value]
    if connected():
        dist.broadcast_object_list(values)
    return values[0]


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


def lost_another(error: BaseException) -> bool:
    """Whether an error says that another process went away, and not what was wrong with it."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and "gloo" in str(error).lower()
    )
