"""What a run is resumed from, and what changes with it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

import ldm
from ldm.checkpoint import load_training_checkpoint, verify
from ldm.config import load_config
from ldm.errors import CheckpointError, ConfigError, DamagedCheckpointError
from ldm.training.optim.making import optimizers_of
from ldm.training.run_folder import RunFolder

_SAME_RUN = re.compile(
    r"name|every\..+|profile(\..+)?|peak_tflops"
    r"|data\.params\.(num_workers|prefetch_factor|pin_memory|persistent_workers)"
    r"|trainer\.((min|max)_(steps|epochs|time)|devices|num_nodes|accelerator|strategy"
    r"|accumulate_grad_batches|log_every_n_steps|enable_.+|profiler|limit_val_batches)"
)
"""Keys of a config that say how long, where and how talkative a run is, not what it computes."""
_ABSENT = object()


@dataclass
class Resumed:
    """A checkpoint that was read and found whole.

    Attributes:
        path: the file.
        step: optimiser steps done.
        content: all of it, until it is taken.
        damaged: newer checkpoints that could not be used.
    """

    path: Path
    step: int
    content: dict[str, Any] | None
    damaged: list[Path]

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """Those of the task, until the content is taken."""
        found: Mapping[str, Tensor] = (self.content or {})["state_dict"]
        return found

    @property
    def states(self) -> list[dict[str, Any]]:
        """Those of the optimisers, until the content is taken."""
        found: list[dict[str, Any]] = (self.content or {})["optimizer_states"]
        return found

    def take(self) -> dict[str, Any] | None:
        """Hand the content out once, so that nobody else keeps it in memory."""
        content, self.content = self.content, None
        return content

    def set_damaged_aside(self) -> None:
        """Rename the damaged ones, so that they do not take the place of good ones."""
        for path in self.damaged:
            names = (path.with_name(f"{path.name}.damaged{n or ''}") for n in itertools.count())
            path.replace(next(name for name in names if not name.exists()))


def newest_good(folder: RunFolder, say: Callable[[str], None]) -> Resumed:
    """Read the newest checkpoint of a run that is whole.

    Args:
        folder: the run's folder.
        say: called with a line if it is not the newest of all.

    Raises:
        CheckpointError: there is none; or the newest may not be read, which can be mended.
    """
    complaints: list[str] = []
    damaged: list[Path] = []
    for path in folder.resumable():
        try:
            verify(path)
            content = _training_state(path)
        except DamagedCheckpointError as error:
            complaints.append(str(error))
            damaged.append(path)
            continue
        step = content["global_step"]
        if complaints:
            say(f"warning: {'; '.join(complaints)}; continuing from {path}, step {step}")
        elif path != folder.last:
            say(f"warning: there is no {folder.last}; continuing from {path}, step {step}")
        return Resumed(path, step, content, damaged)
    if complaints:
        raise CheckpointError(
            f"{folder.path} holds no checkpoint that can be resumed from: {'; '.join(complaints)}"
        )
    raise CheckpointError(
        f"{folder.path} holds no checkpoints/last.ckpt to resume from; delete the folder and "
        "start again"
    )


def _training_state(path: Path) -> dict[str, Any]:
    content = load_training_checkpoint(path, check=False)  # it was just verified
    for key in ("global_step", "state_dict", "optimizer_states", "loops"):
        if key not in content:
            raise CheckpointError(f"{path} is no training checkpoint: it has no {key}")
    return content


def check_fit(task: Any, resumed: Resumed) -> None:
    """Refuse a checkpoint whose weights or optimisers are not those of the task.

    Raises:
        CheckpointError: it does not fit.
    """
    saved = resumed.weights
    own = task.state_dict()
    odd = sorted(saved.keys() ^ own.keys())
    odd += [key for key in own.keys() & saved.keys() if own[key].shape != saved[key].shape]
    if odd:
        raise CheckpointError(
            f"{resumed.path} does not fit the config: {len(odd)} weights are missing or of another "
            f"shape, first {', '.join(odd[:3])}; resume with the run's own config"
        )
    saved_groups = [_sizes(state["param_groups"]) for state in resumed.states]
    if saved_groups != [_sizes(made.param_groups) for made in optimizers_of(task)]:
        raise CheckpointError(
            f"{resumed.path} does not fit the config: its optimizer divides the weights otherwise; "
            "resume with that, or begin another run from these weights with --init-from"
        )


def _sizes(groups: Iterable[Mapping[str, Any]]) -> list[int]:
    return [len(group["params"]) for group in groups]


def check_not_past_end(resumed: Resumed, folder: RunFolder, trainer: pl.Trainer) -> None:
    """Refuse a checkpoint that is further than training is to go.

    Raises:
        ConfigError: it says where the run is.
    """
    position = (resumed.content or {}).get("position", {"epoch": 0, "taken": 0})
    epochs = position["epoch"] + (position["taken"] > 0)  # begun
    if 0 <= trainer.max_steps < resumed.step:
        reached, limit = "", f"max_steps={trainer.max_steps}"
    elif trainer.max_epochs is not None and 0 <= trainer.max_epochs < epochs:
        reached, limit = f", in epoch {epochs},", f"max_epochs={trainer.max_epochs}"
    else:
        return
    raise ConfigError(
        f"step {resumed.step} of {folder.path}{reached} is past trainer.{limit}: there is nothing "
        f"to do; raise trainer.{limit.partition('=')[0]} to go on"
    )


def changes(folder: RunFolder, config: DictConfig) -> dict[str, tuple[Any, Any]]:
    """The values of the run's config and of this one, by the keys in which they differ.

    References are resolved.
    """
    before = _flatten(OmegaConf.to_container(load_config(folder.config), resolve=True))
    now = _flatten(OmegaConf.to_container(config, resolve=True))
    keys = sorted(before.keys() | now.keys())
    pairs = {key: (before.get(key, _ABSENT), now.get(key, _ABSENT)) for key in keys}
    return {key: (old, new) for key, (old, new) in pairs.items() if old != new}


def other_run(changed: list[str]) -> list[str]:
    """Those of changed keys with which a run computes something else."""
    return [key for key in changed if not _SAME_RUN.fullmatch(key)]


def record(resumed: Resumed, changed: list[str], processes: int) -> dict[str, Any]:
    """What ``status.json`` keeps about a resumption."""
    return {
        "step": resumed.step,
        "from": resumed.path.name,
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        "changed": changed,
        "processes": processes,
        "versions": {
            "ldm": ldm.__version__,
            "torch": torch.__version__,
            "pytorch_lightning": pl.__version__,
        },
    }


def _flatten(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {
            key: leaf
            for name, child in value.items()
            for key, leaf in _flatten(child, f"{path}.{name}" if path else str(name)).items()
        }
    return {path: value}
