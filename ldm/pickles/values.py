"""What stands for the values of a pickle, and how much of each there may be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NoReturn

from ldm.errors import CheckpointError

MOST_BYTES = 1 << 26
"""Bytes of one pickle, the numbers of its tensors not counted."""
MOST_STEPS = 4_000_000
MOST_CONTAINERS = 500_000
MOST_DEPTH = 100
MOST_VALUES = 10_000_000
"""Values in the whole, each counted as often as it is referred to."""
MOST_IN_KEY = 10_000
"""Values in a tuple that is a key; and such keys, whose hashes one can choose to be alike."""
MOST_GIVEN = 10_000_000
"""Values and bytes that all calls together are given."""
MOST_LARGE = 1_000
"""Whole numbers of more than 63 bits, of which any number have one hash."""
MOST_REPEATED = 1 << 27
"""Values of a tensor that repeats those of a smaller storage, as an expanded one does."""
LONGEST_LINE = 256
OTHER, TENSOR = object(), object()
"""What stands for a tensor, and for anything else that nothing depends on."""
ITEM_SIZES = {
    **dict.fromkeys(("ByteStorage", "CharStorage", "BoolStorage", "UntypedStorage"), 1),
    **dict.fromkeys(("QInt8Storage", "QUInt8Storage", "QUInt4x2Storage", "QUInt2x4Storage"), 1),
    **dict.fromkeys(("ShortStorage", "HalfStorage", "BFloat16Storage"), 2),
    **dict.fromkeys(("IntStorage", "FloatStorage", "QInt32Storage"), 4),
    **dict.fromkeys(("LongStorage", "DoubleStorage", "ComplexFloatStorage"), 8),
    "ComplexDoubleStorage": 16,
}
"""Bytes of a number in each kind of storage."""


class RefusedError(CheckpointError):
    """A pickle that is damaged, or asks for more than checkpoints need; the message says what."""


class Global:
    """A class or function, by its name."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class Storage:
    """The numbers of tensors: how many, and of how many bytes each."""

    __slots__ = ("count", "width")

    def __init__(self, count: int, width: int) -> None:
        self.count, self.width = count, width


class Group:
    """A container.

    Attributes:
        items: all values of a tuple or frozen set; None for a container that may still change.
        count: number of values.
        inner: those that are containers.
        depth: levels of tuples, this one included: what a hash goes through.
        size: values in all of them.
    """

    __slots__ = ("count", "depth", "inner", "items", "size")

    def __init__(self, items: tuple[Any, ...] | None = None) -> None:
        self.items, self.count = items, 0
        self.inner: list[Group] = []
        self.depth = self.size = 1
        if items:
            self.take(items)
            self.size += self.count
            for group in self.inner:
                self.size += group.size
                self.depth = max(self.depth, group.depth + 1)

    def take(self, values: Sequence[Any]) -> None:
        """Note what is put into it."""
        self.count += len(values)
        self.inner += [value for value in values if type(value) is Group]


def check_tensor(given: Sequence[Any], name: str) -> None:
    """Refuse a tensor that is larger than its storage."""
    match given[:4]:
        case (
            Storage() as storage,
            int(offset),
            Group(items=tuple(size)),
            Group(items=tuple(step)),
        ):
            pass
        case _:
            refuse("one of its tensors is not described as one")
    width = storage.width
    if name.endswith("_v3"):
        kind = given[6] if len(given) > 6 else None
        width = _width(kind.name) if type(kind) is Global else 0
    known = all(type(value) is int and 0 <= value < 2**63 for value in (offset, *size, *step))
    if not known or len(size) != len(step) or len(size) > 64 or not width:
        refuse("one of its tensors has no size")
    count = math.prod(size)
    last = offset + sum((n - 1) * by for n, by in zip(size, step, strict=True)) + 1
    if count and last * width > storage.count * storage.width:
        refuse(f"one of its tensors has {last} numbers where its storage has {storage.count}")
    if count > max(storage.count, MOST_REPEATED):
        refuse(f"one of its tensors repeats {storage.count} numbers {count} times")


def _width(name: str) -> int:
    """Bytes of a number of a type of PyTorch; 0: there is none of this name."""
    import torch

    kind = getattr(torch, name.removeprefix("torch."), None)
    return kind.itemsize if isinstance(kind, torch.dtype) else 0


def measure(root: Group) -> int:
    """Values in a container with all references followed, a circle once.

    Raises:
        RefusedError: they are too many, or nested too deeply.
    """
    measured: dict[int, tuple[int, int]] = {}
    begun: set[int] = set()
    waiting: list[tuple[Group, bool]] = [(root, False)]
    while waiting:
        group, done = waiting.pop()
        if done:
            below = [measured[id(child)] for child in group.inner if id(child) in measured]
            depth = 1 + max((depth for depth, _ in below), default=0)
            size = 1 + group.count + sum(size for _, size in below)
            check_size(depth, size)
            measured[id(group)] = depth, size
        elif id(group) not in begun:
            begun.add(id(group))
            waiting.append((group, True))
            waiting += [(child, False) for child in group.inner if id(child) not in begun]
    return measured[id(root)][1]


def check_size(depth: int, size: int) -> None:
    """Refuse more levels or values than checkpoints have."""
    if depth > MOST_DEPTH:
        refuse(f"it nests values more than {MOST_DEPTH} deep")
    if size > MOST_VALUES:
        refuse(f"it has more than {MOST_VALUES} values")


def refuse(why: str) -> NoReturn:
    """Raise ``RefusedError``."""
    raise RefusedError(why)
