"""The contract that all conditioners keep, and checks of the values that they get."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from ldm.errors import ConfigError, DataError

Route = Literal["crossattn", "concat", "adm"]
"""How a condition reaches the denoiser: attended to as a sequence (B, L, D), concatenated to the
noisy latent as a map (B, C, h, w), or as class ids (B,) added to the embedding of the step."""


class Conditioner(nn.Module):
    """Encodes one batch entry; ``forward(value)`` gives the tensor for its ``route``.

    A class with ``needs_autoencoder`` is called as ``forward(value, autoencoder)``: the diffusion
    model lends it its first stage, so that no conditioner owns a second copy.

    Attributes:
        frozen: The weights do not learn: the diffusion model keeps this module in eval mode, and
            optimiser and average leave it out. Set by :meth:`freeze`.
        in_checkpoint: Whether checkpoints hold the weights. Frozen ones that come from a file of
            their own need not be stored again.

    Args:
        key: Name of the batch entry.
        route: How the condition reaches the denoiser.
        drop_prob: Share of training samples whose value is replaced by :meth:`null`, so that the
            model learns to go without (classifier-free guidance, Ho & Salimans, 2021). The
            replacing is done by the diffusion model.
    """

    needs_autoencoder: ClassVar[bool] = False

    def __init__(self, key: str, route: Route, drop_prob: float = 0.0) -> None:
        super().__init__()
        if route not in get_args(Route):
            raise ConfigError(f"route {route!r} of {key!r} is none of {', '.join(get_args(Route))}")
        if not 0.0 <= drop_prob <= 1.0:
            raise ConfigError(f"drop_prob of {key!r} must be in [0, 1], got {drop_prob}")
        self.key = key
        self.route: Route = route
        self.drop_prob = drop_prob
        self.frozen = False
        self.in_checkpoint = True

    def freeze(self, in_checkpoint: bool = True) -> None:
        """Let nothing in here learn any more."""
        self.requires_grad_(False)
        self.eval()
        self.frozen, self.in_checkpoint = True, in_checkpoint

    def check(self, value: Tensor) -> None:
        """Refuse a batch value that this conditioner cannot take; called on the CPU.

        Raises:
            DataError: it names the entry and what is wrong.
        """

    def null(self, n: int, like: Tensor) -> Tensor:
        """Batch value of ``n`` unconditional samples, on the device and in the shape of ``like``.

        Raises:
            ConfigError: If this conditioner has no such value.
        """
        raise ConfigError(f"{type(self).__name__} ({self.key!r}) has no unconditional value")


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


def frozen(conditioner: Conditioner) -> Conditioner:
    """The given conditioner, which from now on does not learn; checkpoints hold its weights."""
    conditioner.freeze()
    return conditioner
