"""What several processes of ``torch.distributed`` tell each other; one process is alone."""

from __future__ import annotations

from typing import TypeVar

import torch.distributed as dist

from ldm.errors import UserError

T = TypeVar("T")


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
