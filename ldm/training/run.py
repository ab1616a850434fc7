"""A run: one resolved config, one folder, one Lightning trainer."""

from __future__ import annotations

import inspect
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger

from ldm.checkpoint import load_training_checkpoint
from ldm.config import instantiate, load_config, save_config
from ldm.errors import CheckpointError, ConfigError
from ldm.load import inline_pretrained, pretrained_checkpoints
from ldm.training.callbacks import EMACallback, EpochOfData, LossCurves, PictureGrid
from ldm.training.checkpoint_io import AtomicCheckpointIO
from ldm.training.metrics_log import MetricsLog
from ldm.training.progress import StepProgress

_RESERVED = ("callbacks", "logger", "default_root_dir", "plugins", "enable_progress_bar")


@dataclass(frozen=True)
class RunFolder:
    """Where the parts of a run lie.

    Args:
        path: the folder, ``runs/<name>``.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The resolved config."""
        return self.path / "config.yaml"

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def metrics(self) -> Path:
        """All logged numbers, a JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def curves(self) -> Path:
        """The loss curves as a picture."""
        return self.path / "curves.png"

    @property
    def samples(self) -> Path:
        """Picture grids drawn during training."""
        return self.path / "samples"

    def status(self) -> dict[str, Any]:
        """What ``status.json`` says: state, step, seconds, and hashes of what the run builds on."""
        file = self.path / "status.json"
        return json.loads(file.read_text()) if file.exists() else {}

    def write_status(self, **values: Any) -> None:
        """Update ``status.json`` in one move."""
        text = json.dumps(self.status() | values, indent=2)
        temporary = self.path / "status.json.tmp"
        temporary.write_text(text + "\n")
        os.replace(temporary, self.path / "status.json")

    @property
    def complete(self) -> bool:
        """True once training reached its last step."""
        return self.status().get("state") == "complete"


def train(config: DictConfig, folder: RunFolder, resume: bool = False) -> None:
    """Train ``config`` in ``folder``, from the start or from its newest checkpoint.

    Raises:
        ConfigError: the config cannot be built.
        CheckpointError: the checkpoint to resume from is missing or does not fit.
    """
    if resume and not folder.last.exists():
        raise CheckpointError(
            f"{folder.path} holds no checkpoints/last.ckpt to resume from; delete the folder and "
            "start again"
        )
    inlined = inline_pretrained(config)
    pl.seed_everything(config.get("seed", 0), workers=True, verbose=False)
    # On resume all weights, those of a frozen first stage included, come from the checkpoint.
    task, data = build(inlined if resume else config)
    folder.path.mkdir(parents=True, exist_ok=True)
    if resume:
        _check_fit(task, folder.last)  # before anything in the folder is changed
    else:
        folder.write_status(
            state="started", step=0, seconds=0, inputs=pretrained_checkpoints(config)
        )
    save_config(inlined, folder.config)
    trainer = _trainer(config, folder, task)
    start, before = time.monotonic(), folder.status().get("seconds", 0)
    trainer.fit(task, datamodule=data, ckpt_path=str(folder.last) if resume else None)
    finished = trainer.state.finished and not trainer.interrupted
    if finished:
        trainer.save_checkpoint(folder.last)
    folder.write_status(
        state="complete" if finished else "interrupted",
        step=trainer.global_step,
        seconds=round(before + time.monotonic() - start, 1),
    )
    if not finished:
        raise KeyboardInterrupt


def _check_fit(task: Any, checkpoint: Path) -> None:
    """Refuse a checkpoint whose weights are not those of the task, naming the first that differ."""
    saved = load_training_checkpoint(checkpoint)["state_dict"]
    own = task.state_dict()
    odd = sorted(saved.keys() ^ own.keys())
    odd += [key for key in own.keys() & saved.keys() if own[key].shape != saved[key].shape]
    if odd:
        raise CheckpointError(
            f"{checkpoint} does not fit the config: {len(odd)} weights are missing or of another "
            f"shape, first {', '.join(odd[:3])}; resume with the run's own config"
        )


def build(config: DictConfig) -> tuple[Any, Any]:
    """Build the task (with its model) and the data module of a config."""
    for key in ("name", "model", "task", "data", "trainer"):
        if key not in config:
            raise ConfigError(
                f"{key}: missing; an experiment needs name, model, task, data, trainer"
            )
    return instantiate(config.task, "task"), instantiate(config.data, "data")


def _trainer(config: DictConfig, folder: RunFolder, task: Any) -> pl.Trainer:
    options = trainer_options(config)
    if options.get("accumulate_grad_batches", 1) > 1 and not task.automatic_optimization:
        raise ConfigError(
            "trainer.accumulate_grad_batches: an autoencoder steps two optimisers on every batch "
            "and cannot accumulate; set it to 1 and choose data.params.batch_size to fit"
        )
    every = {"log": 10, "validation": 500, "checkpoint": 500, "images": 500}
    unknown = set(config.get("every", {})) - set(every)
    if unknown:
        raise ConfigError(f"every.{min(unknown)}: unknown; it accepts {', '.join(every)}")
    every |= dict(config.get("every", {}))
    ema = EMACallback(config.ema_decay) if config.get("ema_decay") else None
    callbacks: list[pl.Callback] = [StepProgress(config.name), EpochOfData()]
    if ema is not None:
        callbacks.append(ema)
    if hasattr(task, "preview"):
        callbacks.append(PictureGrid(folder.samples, every["images"], ema=ema))
    checkpoints = folder.path / "checkpoints"
    callbacks += [
        LossCurves(folder.metrics, folder.curves),
        ModelCheckpoint(
            checkpoints,
            filename="last",
            every_n_train_steps=every["checkpoint"],
            enable_version_counter=False,
            save_on_exception=True,
        ),
        ModelCheckpoint(
            checkpoints, filename="best", monitor=task.monitor, enable_version_counter=False
        ),
    ]
    defaults = {
        "max_epochs": -1 if "max_steps" in options else None,
        "num_sanity_val_steps": 0,
        "enable_model_summary": False,
        "val_check_interval": every["validation"],
        "check_val_every_n_epoch": None,
        "log_every_n_steps": every["log"],
    }
    return pl.Trainer(
        **(defaults | options),
        callbacks=callbacks,
        logger=[
            MetricsLog(folder.metrics),
            TensorBoardLogger(folder.path, name="tensorboard", version=""),
        ],
        plugins=[AtomicCheckpointIO()],
        default_root_dir=folder.path,
        enable_progress_bar=False,
    )


def trainer_options(config: DictConfig) -> dict[str, Any]:
    """Check the ``trainer`` node, which holds plain arguments of Lightning's ``Trainer``."""
    options: dict[str, Any] = OmegaConf.to_container(config.trainer, resolve=True)  # type: ignore[assignment]
    accepted = [name for name in inspect.signature(pl.Trainer).parameters if name not in _RESERVED]
    for key in options:
        if key not in accepted:
            raise ConfigError(
                f"trainer.{key}: not an argument of Lightning's Trainer that a config may set; "
                f"it accepts {', '.join(accepted)}"
            )
    if "max_steps" not in options and "max_epochs" not in options:
        raise ConfigError("trainer: set max_steps (optimiser steps) or max_epochs")
    return options


def open_run(
    folder: RunFolder, config: DictConfig, if_exists: str, say: Callable[[str], None]
) -> None:
    """Start, continue or skip a run, and never mix two.

    Args:
        folder: the run's folder.
        config: what the user asks for now.
        if_exists: ``error``, or ``resume`` to continue or reuse a folder with the *same* config.
        say: called with one line about what is done.
    """
    if not folder.config.exists():
        say(f"starting {folder.path}")
        train(config, folder)
        return
    if if_exists == "error":
        raise ConfigError(
            f"{folder.path} exists already: continue it with --resume {folder.path}, or choose "
            "another name with name=..."
        )
    _check_same(folder, config)
    if folder.complete:
        say(f"{folder.path} is complete: reusing it")
    elif folder.last.exists():
        say(f"continuing {folder.path}")
        train(config, folder, resume=True)
    else:
        say(f"{folder.path} holds no checkpoint yet: starting again")
        train(config, folder)


def _check_same(folder: RunFolder, config: DictConfig) -> None:
    remedy = f"delete {folder.path} or choose another name with name=..."
    before = _flatten(OmegaConf.to_container(load_config(folder.config), resolve=True))
    now = _flatten(OmegaConf.to_container(inline_pretrained(config), resolve=True))
    changed = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))
    if changed:
        raise ConfigError(
            f"{folder.path} was made with another config (it differs in {', '.join(changed[:5])}): "
            + remedy
        )
    inputs = folder.status().get("inputs", {})
    for path, digest in pretrained_checkpoints(config).items():
        if inputs.get(path) != digest:
            raise ConfigError(f"{folder.path} was trained on another version of {path}: {remedy}")


def _flatten(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {
            key: leaf
            for name, child in value.items()
            for key, leaf in _flatten(child, f"{path}.{name}" if path else str(name)).items()
        }
    return {path: value}
