"""Numbers that are not finite never reach the weights: a batch that has any is left out.

``FiniteGuard`` decides, in all processes alike. ``StepGuard`` does so for the steps that Lightning
takes by itself, and tells what was wrong, and in which items.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ldm.distributed import any_process, connected, to_all
from ldm.errors import ConfigError, TrainingError

MAX_SKIPPED = 10
"""Batches in a row that may be left out before it is plain that training itself has broken."""

logger = logging.getLogger(__name__)


class FiniteGuard:
    """Leaves out, or stops at, batches with a NaN or infinite term of the loss or gradient.

    All processes come to the same decision. The weights are never touched by such a batch, so the
    checkpoints on disk, and one written while stopping, stay good.

    Args:
        on_nonfinite: ``skip`` warns, leaves the batch out and stops after ``MAX_SKIPPED`` in a row;
            ``stop`` stops at the first.

    Attributes:
        in_a_row: batches left out since the last step that was taken.
        exchange: tells which flags (N,) are set in any process; the one exchange of a step, in
            which other questions may go along.
    """

    def __init__(self, on_nonfinite: str = "skip") -> None:
        if on_nonfinite not in ("skip", "stop"):
            raise ConfigError(f"on_nonfinite must be 'skip' or 'stop', got {on_nonfinite!r}")
        self._stop = on_nonfinite == "stop"
        self.in_a_row = 0
        self.exchange: Callable[[Tensor], list[bool]] = any_process

    def passes(
        self,
        step: int,
        values: Mapping[str, Tensor],
        detail: Callable[[], str] = lambda: "",
    ) -> bool:
        """Whether all values are finite in all processes.

        Args:
            step: the optimiser step that is being prepared, counted from 1.
            values: tensors by the name under which a message mentions them; the same names in all
                processes.
            detail: gives what else a message says of a batch that is not; called by all processes.

        Raises:
            TrainingError: they are not, and training is to stop.
        """
        bad = torch.stack([~value.detach().isfinite().all() for value in values.values()])
        flags = self.exchange(bad)  # the one moment at which the host waits for the device
        if not any(flags):
            return True
        names = ", ".join(name for name, flag in zip(values, flags, strict=True) if flag)
        names = f"{names} not finite (NaN or infinite){detail()}"
        self.in_a_row += 1
        if self._stop or self.in_a_row > MAX_SKIPPED:
            again = "" if self.in_a_row == 1 else f", for the {self.in_a_row}th batch in a row"
            raise TrainingError(
                f"step {step}: {names}{again}; nothing of it has reached the weights, and the run "
                "can be resumed. Look for damaged images or lower the learning rate; under "
                "16-mixed use bf16-mixed or 32-true"
            )
        logger.warning("step %d: %s: batch left out", step, names)
        return False

    def stepped(self) -> None:
        """A step was taken: the row of batches left out, if any, is over."""
        self.in_a_row = 0


_NAMES = ("__key__", "key", "path", "index")
"""Entries of a batch that name its items, the best first."""
_LISTED = 16

Named = tuple[str, nn.Parameter]
Rows = Callable[[], Sequence[int] | None]


@dataclass
class _Part:
    """What is remembered of a batch until its step is taken; nothing here waits for the device."""

    names: Any
    rows: Rows
    losses: Tensor | None = None
    times: Tensor | None = None
    terms: Mapping[str, Tensor] = field(default_factory=dict)

    def look(self, _weighting: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.losses, self.times = inputs[0].detach(), inputs[1]


class StepGuard(FiniteGuard):
    """Keeps an optimiser step from the weights if a term of the loss or a gradient is not finite.

    All processes come to the same decision. Whether the step may be taken has to be known before
    it is, so the host waits for the backward pass in every step.

    Args:
        on_nonfinite: ``skip`` or ``stop``, see :class:`~ldm.training.nan_guard.FiniteGuard`.
    """

    def __init__(self, on_nonfinite: str = "skip") -> None:
        super().__init__(on_nonfinite)
        self._parts: list[_Part] = []

    @contextmanager
    def watching(
        self, model: Any, batch: Mapping[str, Any], rows: Rows = lambda: None
    ) -> Iterator[_Part]:
        """Remember a batch, and its losses and time steps as the weighting of the model gets them.

        The block sets ``terms`` of what is yielded, the detached terms of the loss by name. Batches
        are remembered until ``admits``: a step may accumulate several.

        Args:
            model: has a ``weighting``, which is called with losses (B,) and time steps (B,).
            batch: its entries ``__key__``, ``key``, ``path`` or ``index``, if it has one of them,
                name the items.
            rows: gives, if asked, the rows of the data set that the batch holds, if they are known.
        """
        part = _Part(next((batch[name] for name in _NAMES if name in batch), None), rows)
        hook = model.weighting.register_forward_pre_hook(part.look)
        try:
            yield part
        finally:
            hook.remove()
        self._parts.append(part)

    def admits(self, step: int, norms: Tensor | None, parameters: Iterable[Named]) -> bool:
        """Whether an optimiser step may be taken; forgets the batches that lead to it.

        Args:
            step: the optimiser step that is being prepared, counted from 1.
            norms: that of each gradient (P,); None where gradients that are not finite are normal
                and never reach the weights: in float16, whose scale is found by trying.
            parameters: those of the model by name, for messages.

        Raises:
            TrainingError: it may not, and training is to stop.
        """
        parts, self._parts = self._parts, []
        terms = {
            name: torch.stack([part.terms[name].float() for part in parts])
            for name in parts[0].terms
        }
        if norms is not None:
            terms["gradient"] = norms
        fit = self.passes(step, terms, lambda: _describe(parts, parameters))
        if fit:
            self.stepped()
        return fit


def gradient_norms(parameters: Iterable[Tensor]) -> Tensor:
    """The norm of each gradient (P,), float32 or wider, of those parameters that have one."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        raise TrainingError("no parameter has a gradient: is everything frozen?")
    return torch.stack([norm.float() for norm in torch._foreach_norm(gradients)])


def clip_gradients(parameters: Iterable[Tensor], norm: Tensor, limit: float) -> None:
    """Shrink gradients so that their common norm, which is known, is at most ``limit``.

    The same numbers as torch's clip_grad_norm_, which would compute the norm once more.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    torch._foreach_mul_(gradients, (limit / (norm + 1e-6)).clamp(max=1.0))


def _describe(parts: list[_Part], parameters: Iterable[Named]) -> str:
    """Words about the items whose losses are not finite; about all, if a gradient is to blame."""
    times = torch.cat([part.times for part in parts if part.times is not None]).cpu()
    losses = torch.cat([part.losses for part in parts if part.losses is not None])
    bad = (~losses.isfinite()).cpu()
    names = _names(parts)
    found = bool(bad.any())
    if found:
        which = [name for name, is_bad in zip(names, bad.tolist(), strict=True) if is_bad]
        words = f"the loss of {len(which)} of {len(names)} items, {_list(which)}"
        times = times[bad]
    else:
        words = f"the losses of all {len(names)} items are finite, {_list(names)}"
        words += _first_gradient(parameters)
    return _everywhere(found, f"{words}, at t = {int(times.min())} to {int(times.max())}")


def _everywhere(to_blame: bool, own: str) -> str:
    """What the processes that are to blame have to say; what all have, if none is."""
    if not connected():
        return f": {own}"
    said = to_all((to_blame, own))
    some = any(blame for blame, _ in said)
    told = [f"process {i}: {words}" for i, (blame, words) in enumerate(said) if blame or not some]
    return f": {'; '.join(told)}"


def _first_gradient(parameters: Iterable[Named]) -> str:
    gradients = [(name, p.grad) for name, p in parameters if p.grad is not None]
    bad = [name for name, gradient in gradients if not gradient.isfinite().all()]
    return f", the gradient of {bad[0]} and {len(bad) - 1} more parameters is not" if bad else ""


def _names(parts: list[_Part]) -> list[str]:
    """The items of batches, by the best that is known of them."""
    names: list[str] = []
    for part in parts:
        count = 0 if part.losses is None else len(part.losses)
        rows = part.rows() if part.names is None else None
        own = part.names
        single = own is not None and len(own) == count and getattr(own, "ndim", 1) == 1
        if own is not None and single:
            names += [str(n.item() if isinstance(n, Tensor) else n) for n in own]
        elif rows is not None:
            names += [f"row {row}" for row in rows]
        else:
            names += [f"position {len(names) + i}" for i in range(count)]
    return names


def _list(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
