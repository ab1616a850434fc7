"""Checks of the values that conditioners get."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ldm.errors import DataError


def readable(value: Tensor) -> bool:
    """Whether looking at the numbers in ``value`` costs nothing that matters.

    On the CPU it does not. On an accelerator it makes the program wait for all work in its queue,
    which would slow every training step; without gradients (sampling, validation) that is no loss.
    """
    return value.device.type == "cpu" or not torch.is_grad_enabled()


def check_ids(value: Tensor, count: int, key: str, what: str, others: Sequence[int] = ()) -> None:
    """Refuse integers outside [0, count), where :func:`readable`.

    Args:
        value: ids of any shape.
        count: number of valid ids.
        key: name of the batch entry, for messages.
        what: what one id is called.
        others: further valid ids.

    Raises:
        DataError: it names the first such id and the range.
    """
    if not readable(value) or value.numel() == 0:
        return
    wrong = (value < 0) | (value >= count)
    if not wrong.any():
        return
    for other in others:
        wrong &= value != other
    if wrong.any():
        besides = f" or {', '.join(map(str, others))}" if others else ""
        raise DataError(
            f"{key!r}: {what} {int(value[wrong][0])} is outside 0 to {count - 1}{besides}"
        )


def check_tensor(value: Tensor, key: str, kind: str, *shape: int | None) -> None:
    """Refuse a value of another shape or kind of number.

    Args:
        value: the batch entry.
        key: its name, for messages.
        kind: "float", or "ids" for int64.
        *shape: sizes of the axes after the batch, None for any.

    Raises:
        DataError: it names what is expected and what came.
    """
    fits = value.ndim == 1 + len(shape) and all(
        want in (None, got) for want, got in zip(shape, value.shape[1:], strict=True)
    )
    if fits and (value.is_floating_point() if kind == "float" else value.dtype == torch.int64):
        return
    sizes = ", ".join(["B", *("any" if size is None else str(size) for size in shape)])
    got = f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    name = "int64 ids" if kind == "ids" else kind
    raise DataError(f"{key!r} must be {name} of shape ({sizes}), got {got}")
