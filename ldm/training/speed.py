"""How fast the networks of a task run: the layout of their kernels, and torch.compile."""

from __future__ import annotations

import os
import shutil
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from ldm.errors import ConfigError
from ldm.layers.compiling import compile_networks

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
