"""A run: one config, one folder, one Lightning trainer."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import IterableDataset

from ldm.checkpoint import load_training_checkpoint
from ldm.config import instantiate, load_config, save_config
from ldm.errors import CheckpointError, ConfigError
from ldm.initialise import InitFrom, initialise
from ldm.load import inline_pretrained, pretrained_checkpoints
from ldm.training.processes import is_main_process
from ldm.training.run_folder import RunFolder
from ldm.training.trainer import make_trainer


def train(
    config: DictConfig,
    folder: RunFolder,
    resume: bool = False,
    init: InitFrom | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Train ``config`` in ``folder``, from the start or from its newest checkpoint.

    Args:
        config: what to train.
        folder: where.
        resume: continue from the folder's newest checkpoint.
        init: weights to begin with; a run that is resumed has begun and takes none.
        say: called with each line about the weights that it began with.

    Raises:
        ConfigError: the config cannot be built.
        CheckpointError: the checkpoint to resume from is missing or does not fit, or that to begin
            with does not; then nothing was written.
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
    check_data(task, data)
    if init is not None and not resume:
        begin(task, init, say)
    trainer = make_trainer(config, folder, task)
    if resume:
        _check_fit(task, folder.last)
    folder.path.mkdir(parents=True, exist_ok=True)  # nothing was written before
    if is_main_process():
        fresh = {"step": 0, "seconds": 0, "inputs": pretrained_checkpoints(config)}
        fresh["init_from"] = None if init is None else init.record()
        folder.write_status(state="started", **({} if resume else fresh))
        save_config(inlined, folder.config)
    start, before = time.monotonic(), folder.status().get("seconds", 0)
    try:
        trainer.fit(task, datamodule=data, ckpt_path=str(folder.last) if resume else None)
    except SystemExit:  # how Lightning ends after Ctrl-C
        if not trainer.interrupted:
            raise
    except Exception:
        if is_main_process():
            folder.write_status(state="failed", step=trainer.global_step)
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


def check_data(task: Any, data: Any) -> None:
    """Read one training item and let the task look at it, before anything is written.

    Raises:
        UserError: the item cannot be read, or the task cannot take it.
    """
    stream = isinstance(data.train, IterableDataset)
    if stream or hasattr(data.train, "__getitem__"):
        item = next(iter(data.train)) if stream else data.train[0]
        if hasattr(task, "check_item"):
            task.check_item(item)


def begin(task: Any, init: InitFrom, say: Callable[[str], None]) -> None:
    """Give the model of a task its first weights, and say which they are.

    Raises:
        CheckpointError: they do not fit.
    """
    report = initialise(task.model, init.read(), init.partial)
    if is_main_process():
        say(f"initialised from {init.path}")
        for line in report.lines():
            say(f"  {line}")


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
    folder: RunFolder,
    config: DictConfig,
    if_exists: str,
    say: Callable[[str], None],
    init: InitFrom | None = None,
) -> None:
    """Start, continue or skip a run, and never mix two.

    Args:
        folder: the run's folder.
        config: what the user asks for now.
        if_exists: ``error``, or ``resume`` to continue or reuse a folder with the *same* config.
        say: called with one line at a time about what is done.
        init: weights to begin with.
    """
    if not is_main_process():
        # The main process checks and reports, and writes into the folder meanwhile: look only at
        # what it does not touch before all processes train.
        reuse = if_exists == "resume"
        if not (reuse and folder.complete):
            train(config, folder, reuse and folder.last.exists(), init)
        return
    if not folder.config.exists():
        say(f"starting {folder.path}")
        train(config, folder, init=init, say=say)
        return
    if not folder.last.exists() and folder.status().get("state") == "failed":
        say(f"{folder.path} failed before its first checkpoint: starting again")
        train(config, folder, init=init, say=say)
        return
    if if_exists == "error" and not folder.last.exists():
        raise ConfigError(
            f"{folder.path} exists already and holds no checkpoint: delete it to start again, or "
            "choose another name with name=..."
        )
    if if_exists == "error":
        raise ConfigError(
            f"{folder.path} exists already: continue it with --resume {folder.path}, or choose "
            "another name with name=..."
        )
    _check_same(folder, config, init)
    if folder.complete:
        say(f"{folder.path} is complete: reusing it")
    elif folder.last.exists():
        say(f"continuing {folder.path}")
        train(config, folder, resume=True)
    else:
        say(f"{folder.path} holds no checkpoint yet: starting again")
        train(config, folder, init=init, say=say)


def _check_same(folder: RunFolder, config: DictConfig, init: InitFrom | None) -> None:
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
    began = folder.status().get("init_from")
    asked = None if init is None else init.record()
    if _weights(began) != _weights(asked):
        source = "weights of its own" if began is None else f"those of {began['checkpoint']}"
        raise ConfigError(
            f"{folder.path} began with {source}, not with what --init-from says now: give the same "
            f"again, or {remedy}"
        )


def _weights(init: dict[str, Any] | None) -> Any:
    """What makes two initialisations the same: the files, wherever they lie."""
    return None if init is None else (init["sha256"], init["partial"])


def _flatten(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {
            key: leaf
            for name, child in value.items()
            for key, leaf in _flatten(child, f"{path}.{name}" if path else str(name)).items()
        }
    return {path: value}
