"""How the networks of a task are laid out: memory format, torch.compile, weights over devices."""

from __future__ import annotations

import os
import shutil
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import FSDPStrategy
from torch import Tensor

from ldm.errors import ConfigError
from ldm.layers.compile import compile_networks
from ldm.training.optim.making import optimizers_of
from ldm.training.optim.muon import Muon

_OTHERS = ("deepspeed", "model_parallel")


def check_sharding(strategy: str, task: Any, ema_decay: float | None, every_images: int) -> None:
    """Refuse a strategy under which parts of a run would fail, or be wrong in silence.

    Under FSDP no process holds whole weights outside of the training step: neither an average of
    them nor pictures nor the first measurement of latents is possible.

    Args:
        strategy: ``trainer.strategy``.
        task: what is trained.
        ema_decay: that of the config.
        every_images: steps between pictures; 0: none.

    Raises:
        ConfigError: it names everything that has to change.
    """
    if strategy.startswith(_OTHERS):
        raise ConfigError(f"trainer.strategy: {strategy} is not supported; use ddp or fsdp")
    if not strategy.startswith("fsdp"):
        return
    if not task.automatic_optimization:
        raise ConfigError("trainer.strategy: a first stage has two optimisers; use ddp, not fsdp")
    changes = []
    if ema_decay:
        changes.append("ema_decay=null")
    if every_images and hasattr(task, "preview"):
        changes.append("every.images=0")
    if any(isinstance(optimizer, Muon) for optimizer in optimizers_of(task)):
        changes.append("torch.optim.AdamW in place of ldm.training.Muon")
    if not getattr(task.model, "has_scale_factor", True):
        changes.append("a number for scale_factor (a run with ddp measures it)")
    if changes:
        raise ConfigError(
            f"trainer.strategy: {strategy} keeps a part of the weights in each process; it needs "
            + ", ".join(changes)
            + ", or use ddp"
        )


def whole_norm(strategy: Any, norms: Tensor) -> Tensor:
    """The norm of all gradients, of which a process may hold a part.

    Args:
        strategy: that of the trainer.
        norms: norms (P,) of the gradients that this process holds.
    """
    norm = torch.linalg.vector_norm(norms)
    if isinstance(strategy, FSDPStrategy):
        return strategy.reduce(norm**2, reduce_op="sum").sqrt()
    return norm


_COMPILERS = ("g++", "clang++", "c++", "cl")


def speed_up(task: Any, compiled: Any) -> None:
    """Make the networks of a task fast before they are trained.

    All kernels of convolutions become channels_last, and with them all maps. Values and names of
    weights stay as they are.

    Args:
        task: with the network or the ``LatentDiffusion`` as ``model``.
        compiled: the node ``compile`` of a config: whether torch.compile translates denoiser,
            encoder and decoder.

    Raises:
        ConfigError: ``compile`` is neither true nor false, or there is no C++ compiler.
    """
    if not isinstance(compiled, bool):
        raise ConfigError(f"compile: expected true or false, got {compiled!r}")
    for part in task.children():
        part.to(memory_format=torch.channels_last)
    if not compiled:
        return
    if not any(map(shutil.which, (os.environ.get("CXX", ""), *_COMPILERS))):
        raise ConfigError(
            "compile: torch.compile needs a C++ compiler on the PATH and finds none; install g++ "
            "or clang++, or set compile=false"
        )
    compile_networks(task.model)


class StateLayout(pl.Callback):
    """Gives the state of optimisers the layout of the weights, whatever the checkpoint had.

    Fused optimisers walk through the memory of both alike and would mix up values of a checkpoint
    from before weights were channels_last.
    """

    def on_train_start(self, trainer: Any, _task: Any) -> None:
        """Copy what lies in another order."""
        for optimizer in trainer.optimizers:
            for weight, state in optimizer.state.items():
                for name, value in state.items():
                    like = isinstance(value, Tensor) and value.shape == weight.shape
                    if like and value.stride() != weight.stride():
                        state[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)
