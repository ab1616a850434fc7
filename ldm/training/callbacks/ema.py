"""Exponential moving average of a module's weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from ldm.errors import CheckpointError


class EMA:
    """Average of the trainable parameters of a module: shadow <- d shadow + (1 - d) weight.

    The n-th update (from 1) uses d = min(decay, (1 + n) / (10 + n)), so that the average forgets
    the initial weights quickly. Buffers and frozen parameters are not tracked. Averages are kept
    at least in float32, on the device of the weights.

    Args:
        module: the module to follow; its present weights are the first average.
        decay: largest decay.
        warmup: whether to use the smaller decay at the beginning.
    """

    def __init__(self, module: nn.Module, decay: float = 0.9999, warmup: bool = True) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"the decay of an EMA must lie in [0, 1), got {decay}")
        self.decay = decay
        self.warmup = warmup
        self.num_updates = 0
        self.shadow = {name: _wide(p).clone() for name, p in _trainable(module).items()}
        self._latest: _Pairs | None = None

    def current_decay(self) -> float:
        """The decay of the latest update."""
        n = self.num_updates
        return min(self.decay, (1 + n) / (10 + n)) if self.warmup else self.decay

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take the present weights of ``module`` into the average."""
        if self._latest is None or not self._latest.fit(module):
            self._latest = _Pairs(module, *self._pairs(module))  # takes as long as a small update
        self.num_updates += 1
        weights = [_wide(weight) for weight in self._latest.weights]
        torch._foreach_lerp_(self._latest.shadows, weights, 1 - self.current_decay())

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Overwrite the weights of ``module`` by the averages."""
        shadows, weights = self._pairs(module)
        torch._foreach_copy_(weights, shadows)

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """Use the averages inside a ``with`` block; the weights come back in any case."""
        self._latest = None  # now and then parameters are looked up anew
        _, weights = self._pairs(module)
        saved = [weight.detach().clone() for weight in weights]
        self.copy_to(module)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(weights, saved)

    def state_dict(self) -> dict[str, Any]:
        """Number of updates and the averages under the parameters' names."""
        return {"num_updates": self.num_updates, "shadow": dict(self.shadow)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state.

        Raises:
            CheckpointError: if names or shapes are not those of the tracked parameters.
        """
        saved = state["shadow"]
        odd = sorted(saved.keys() ^ self.shadow.keys())
        odd += [k for k in self.shadow if k in saved and saved[k].shape != self.shadow[k].shape]
        if odd:
            raise CheckpointError(
                f"EMA weights do not fit the model: {len(odd)} names or shapes differ, "
                f"first {odd[0]!r}"
            )
        self._latest = None
        self.num_updates = int(state["num_updates"])
        self.shadow = {
            name: _wide(saved[name]).to(old.device, copy=True) for name, old in self.shadow.items()
        }

    def _pairs(self, module: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
        """Averages and weights in the same order, with the averages moved to the weights."""
        parameters = _trainable(module)
        if parameters.keys() != self.shadow.keys():
            odd = sorted(parameters.keys() ^ self.shadow.keys())
            raise ValueError(f"the module's trainable parameters have changed, e.g. {odd[0]!r}")
        for name, weight in parameters.items():
            if self.shadow[name].device != weight.device:
                self._latest = None
                self.shadow[name] = self.shadow[name].to(weight.device)
        return [self.shadow[name] for name in parameters], list(parameters.values())


class _Pairs(NamedTuple):
    """Averages and weights of a module, in the same order."""

    module: nn.Module
    shadows: list[Tensor]
    weights: list[Tensor]

    def fit(self, module: nn.Module) -> bool:
        """Whether they are still those of a module, as far as can be told without a walk."""
        pairs = zip(self.shadows, self.weights, strict=True)
        return module is self.module and all(
            weight.requires_grad and shadow.device == weight.device for shadow, weight in pairs
        )


def _trainable(module: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def _wide(weight: Tensor) -> Tensor:
    """Half-precision weights as float32: they could not hold small changes."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    return weight.detach() if weight.dtype == wide else weight.detach().to(wide)


class EMACallback(pl.Callback):
    """Keeps an exponential moving average of ``task.model`` and validates with it.

    Checkpoints carry the average under their top-level key ``ema``.

    Args:
        decay: limit of the decay; the first steps use (1 + n) / (10 + n).
    """

    def __init__(self, decay: float = 0.9999) -> None:
        self.decay = decay
        self.ema: EMA | None = None
        self._loaded: dict[str, Any] | None = None
        self._last_step = 0
        self._swapped = ExitStack()

    def on_fit_start(self, _trainer: Any, task: Any) -> None:
        """Start from the live weights, or from the average of the checkpoint resumed from."""
        self.ema = EMA(task.model, self.decay)
        if self._loaded is not None:
            self.ema.load_state_dict(self._loaded)
            self._loaded = None

    def on_train_start(self, trainer: Any, _task: Any) -> None:
        """Count steps from where a resumed run stands, which is known only now."""
        self._last_step = trainer.global_step

    def on_load_checkpoint(self, _trainer: Any, _task: Any, checkpoint: dict[str, Any]) -> None:
        """Remember the stored average until the weights are on their device."""
        self._loaded = checkpoint.get("ema")

    def on_save_checkpoint(self, _trainer: Any, _task: Any, checkpoint: dict[str, Any]) -> None:
        """Store the average."""
        if self.ema is not None:
            checkpoint["ema"] = self.ema.state_dict()

    def on_train_batch_end(self, trainer: Any, task: Any, *_args: Any) -> None:
        """Follow the weights once per optimiser step, unless it was left out."""
        if self.ema is not None and trainer.global_step != self._last_step:
            self._last_step = trainer.global_step
            if not getattr(task, "left_out", False):
                self.ema.update(task.model)

    def on_validation_start(self, _trainer: Any, task: Any) -> None:
        """Validate with the averaged weights."""
        if self.ema is not None:
            self._swapped.enter_context(self.ema.applied(task.model))

    def on_validation_end(self, _trainer: Any, _task: Any) -> None:
        """Return to the live weights."""
        self._swapped.close()

    def on_exception(self, *_args: Any) -> None:
        """Never leave the averaged weights in place of the live ones."""
        self._swapped.close()
