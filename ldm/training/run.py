"""A run: one config, one folder, one Lightning trainer."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf

from ldm.checkpoint import load_training_checkpoint
from ldm.config import instantiate, load_config, save_config
from ldm.errors import CheckpointError, ConfigError
from ldm.load import inline_pretrained, pretrained_checkpoints
from ldm.training.processes import is_main_process
from ldm.training.run_folder import RunFolder
from ldm.training.trainer import make_trainer


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
    # A resumed run must not repeat the noise and the order of data with which it began.
    offset = load_training_checkpoint(folder.last)["global_step"] if resume else 0
    pl.seed_everything(config.get("seed", 0) + offset, workers=True, verbose=False)
    # On resume all weights, those of a frozen first stage included, come from the checkpoint.
    task, data = build(inlined if resume else config)
    folder.path.mkdir(parents=True, exist_ok=True)
    if resume:
        _check_fit(task, folder.last)  # before anything in the folder is changed
    if is_main_process():
        fresh = {"step": 0, "seconds": 0, "inputs": pretrained_checkpoints(config)}
        folder.write_status(state="started", **({} if resume else fresh))
        save_config(inlined, folder.config)
    trainer = make_trainer(config, folder, task)
    start, before = time.monotonic(), folder.status().get("seconds", 0)
    try:
        trainer.fit(task, datamodule=data, ckpt_path=str(folder.last) if resume else None)
    except SystemExit:  # how Lightning ends after Ctrl-C
        if not trainer.interrupted:
            raise
    finished = trainer.state.finished and not trainer.interrupted
    if finished:
        trainer.save_checkpoint(folder.last)
    if is_main_process():
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
    if not is_main_process():
        # The main process checks and reports, and writes into the folder meanwhile: look only at
        # what it does not touch before all processes train.
        reuse = if_exists == "resume"
        if not (reuse and folder.complete):
            train(config, folder, resume=reuse and folder.last.exists())
        return
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
