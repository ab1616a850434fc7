"""A run: one config, one folder, one Lightning trainer."""

from __future__ import annotations

import contextlib
import functools
import signal
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from ldm.config import instantiate, save_config
from ldm.config.paths import one_line
from ldm.distributed import lost_another
from ldm.errors import ConfigError, TrainingError, UserError, exhausted
from ldm.experiment import check_parts, check_seed
from ldm.files import reason, shown
from ldm.load.init_from import InitFrom, initialise
from ldm.load.model import inline_pretrained, pretrained_checkpoints
from ldm.load.portable import pack, with_own_files
from ldm.locks import run_lock
from ldm.training.checks import (
    check_autoencoder,
    check_built,
    check_data,
    check_inputs,
    check_optimizers,
    check_split,
)
from ldm.training.launch import end_others, is_main_process, place_to_meet
from ldm.training.lightning_internals import take_children
from ldm.training.resume import (
    Resumed,
    changes,
    check_fit,
    check_not_past_end,
    newest_good,
    other_run,
    record,
)
from ldm.training.run_folder import RunFolder
from ldm.training.signals import Interrupted, Stop, StopSignals
from ldm.training.trainer import make_trainer


def train(
    config: DictConfig,
    folder: RunFolder,
    resume: bool = False,
    init: InitFrom | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Train ``config`` in ``folder``, from the start or from its newest good checkpoint.

    SIGTERM, SIGUSR1 and Ctrl-C end it after the step it is in.

    Args:
        config: what to train.
        folder: where.
        resume: continue from the folder's newest checkpoint that is whole.
        init: weights to begin with; a run that is resumed has begun and takes none.
        say: called with each line about what the run begins with; in the main process only.

    Raises:
        ConfigError: the config cannot be built, or is none that the run can be resumed with.
        CheckpointError: the checkpoint to resume from is missing or does not fit, or that to begin
            with does not; then nothing was written. Or one cannot be written.
        TrainingError: another process trains in the folder, it cannot be written to, or training
            must not go on.
        Interrupted: the run was asked to end before its last step.
    """
    with _claimed(folder, say):
        _train(Prepared(config, folder), resume, init, say)


def _claimed(folder: RunFolder, say: Callable[[str], None]) -> AbstractContextManager[None]:
    """Make the folder its own; of several processes the main one does."""
    return run_lock(folder.lock, say) if is_main_process() else contextlib.nullcontext()


class Prepared:
    """A config and the folder of its run, with what is asked about both more than once.

    Args:
        config: what a user asks for.
        folder: where it is, or is to be, trained.
    """

    def __init__(self, config: DictConfig, folder: RunFolder) -> None:
        self.config, self.folder = config, folder

    @functools.cached_property
    def inlined(self) -> DictConfig:
        """The config that the run keeps: without pretrained parts, with the run's own files."""
        inlined, brought = inline_pretrained(self.config), self.folder.status().get("files", {})
        return with_own_files(inlined, self.folder.path, brought)

    @functools.cached_property
    def inputs(self) -> dict[str, str]:
        """SHA-256 of the files of pretrained parts, by path."""
        return pretrained_checkpoints(self.config)

    @functools.cached_property
    def changed(self) -> dict[str, tuple[Any, Any]]:
        """How the config differs from that of the run, which has begun."""
        return changes(self.folder, self.inlined)

    @functools.cached_property
    def moved(self) -> dict[str, dict[str, str]]:
        """Inputs that lie elsewhere by now, see ``check_inputs``."""
        return check_inputs(self.folder, self.inputs, self.changed)

    def build(
        self, resume: bool, init: InitFrom | None, say: Callable[[str], None]
    ) -> tuple[Any, Any]:
        """Task and data, seeded, with the weights that training begins with."""
        inlined, seed = self.inlined, self.config.get("seed", 0)
        check_seed(seed)
        pl.seed_everything(seed, workers=True, verbose=False)
        # On resume all weights, those of a frozen first stage included, come from the checkpoint.
        task, data = build(inlined if resume else self.config)
        check_optimizers(task)
        check_data(task, data)
        if init is not None and not resume:
            begin(task, init, say)
        return task, data

    def save(self, **status: Any) -> None:
        """Write what the config names, the status (and in it where that came from), the config."""
        packed, brought = pack(self.inlined, self.folder.path)
        files = self.folder.status().get("files", {}) | brought
        self.folder.write_status(**status, files=files)
        save_config(packed, self.folder.config)


def _train(
    prepared: Prepared, resume: bool, init: InitFrom | None, say: Callable[[str], None]
) -> None:
    """Train in a folder that is claimed; nothing is written before all is known to fit."""
    folder, main = prepared.folder, is_main_process()
    if not main:
        say = _silent
    # The main process alone chooses; the others are told when they read it.
    resumed = newest_good(folder, say) if resume and main else None
    task, data = prepared.build(resume, init, say)
    signals = StopSignals()
    trainer = make_trainer(prepared.config, folder, task, signals, resumed)
    check_split(trainer, task, data)
    if resumed is not None:
        check_fit(task, resumed)
        check_not_past_end(resumed, folder, trainer)
    if resumed is not None or not resume:
        check_autoencoder(task, data, None if resumed is None else resumed.weights)
    if main:
        try:
            folder.remove_leftovers()
            if resumed is None:
                _write_beginning(prepared, init)
            else:
                _write_resumption(prepared, resumed, trainer.world_size, say)
        except OSError as error:
            begun = resumed is not None
            why = folder.trouble(error, begun) or f"the run cannot begin: {reason(error)}"
            raise TrainingError(why) from error
    with signals, place_to_meet(trainer):
        chosen = folder.last if resumed is None else resumed.path
        _fit(trainer, task, data, folder, chosen if resume else None, signals)


def _silent(_: str) -> None:
    """What all processes but the main one say."""


def _write_beginning(prepared: Prepared, init: InitFrom | None) -> None:
    prepared.folder.check_room()
    prepared.save(
        state="started",
        step=0,
        seconds=0,
        inputs=prepared.inputs,
        init_from=None if init is None else init.record(),
    )


def _write_resumption(
    prepared: Prepared, resumed: Resumed, processes: int, say: Callable[[str], None]
) -> None:
    """Record that the run goes on, and say if it becomes another one.

    Raises:
        ConfigError: it was begun with another first stage.
    """
    folder, changed, moved = prepared.folder, list(prepared.changed), prepared.moved
    if other := [key for key in other_run(changed) if key not in moved]:
        say(
            f"note: from step {resumed.step} on this is another run than before: "
            f"{', '.join(other)} changed"
        )
    resumed.set_damaged_aside()
    folder.check_room()
    status = folder.status()
    resumes = [*status.get("resumes", []), record(resumed, changed, processes)]
    for files in moved.values():
        status["inputs"] |= files
    status.pop("files", None)
    prepared.save(**status | {"state": "started", "resumes": resumes})


def _fit(
    trainer: pl.Trainer,
    task: Any,
    data: Any,
    folder: RunFolder,
    checkpoint: Path | None,
    signals: StopSignals,
) -> None:
    """Train, and record how it ended.

    Raises:
        Interrupted: before the last step.
        TrainingError: the folder cannot be written to any more, or another process failed.
    """
    main = is_main_process()
    signals.last_act = functools.partial(_end_at_once, trainer, folder, main)
    start, before = time.monotonic(), folder.status().get("seconds", 0) if main else 0
    try:
        stopped = _stopped(trainer, task, data, checkpoint, signals)
        finished = not stopped and _at_its_end(trainer)
    except Exception as error:
        lost = lost_another(error)
        end_others(trainer, may_speak=lost)
        why = folder.trouble(error) if isinstance(error, OSError) else None
        if lost:
            why = "another process of this training failed: see what it said"
        elif (
            why is None
            and not isinstance(error, UserError | MemoryError)
            and (short := exhausted(error))
        ):
            saved = folder.resumable() if main else []
            why = f"step {trainer.global_step}: {short}"
            why += f"; then continue with --resume {shown(folder.path)}" if saved else ""
        elif isinstance(error, MisconfigurationException):  # what Lightning sees in the data only
            why = f"trainer: {one_line(error)}"
        if main:
            _record_failure(folder, trainer.global_step)
        if why is None:
            raise
        raise TrainingError(why) from error
    if main:
        if why := folder.why_lost():
            raise TrainingError(why)
        try:
            folder.write_status(
                state="complete" if finished else "interrupted",
                step=trainer.global_step,
                seconds=round(before + time.monotonic() - start, 1),
            )
        except OSError as error:
            why = folder.trouble(error) or f"{shown(folder.path)}: {reason(error)}"
            raise TrainingError(why) from error
    if not finished:
        while_waiting = ", its loader gave no batch any more" if signals.loader_stuck else ""
        speaks = main or signals.loader_stuck  # the others do not know yet
        raise Interrupted(
            f"{folder.path}: interrupted at step {trainer.global_step}{while_waiting}; continue "
            f"with --resume {folder.path}",
            128 + (signals.received or signal.SIGTERM) if speaks else 0,
        )


def _stopped(
    trainer: pl.Trainer, task: Any, data: Any, checkpoint: Path | None, signals: StopSignals
) -> bool:
    """Train; whether it was asked to stop."""
    try:
        trainer.fit(task, datamodule=data, ckpt_path=checkpoint)
    except Stop:
        if signals.loader_stuck:  # the others wait for this process
            end_others(trainer, may_speak=False)
        return True
    except SystemExit:  # how Lightning ends after KeyboardInterrupt
        if not trainer.interrupted:
            raise
        end_others(trainer, may_speak=False)
        return True
    except Exception as error:
        if signals.received is None or not lost_another(error):
            raise
        end_others(trainer, may_speak=True)  # one whose loader is stuck did not wait for all
        return True
    return False


def _end_at_once(trainer: pl.Trainer, folder: RunFolder, main: bool, why: str) -> None:
    """What there is time for before the process ends without coming back."""
    if main:  # by a thread that must not wait for a lock of logging, which the stuck one may hold
        print(
            f"{folder.path}: {why}; what was done since the last checkpoint is lost; continue with "
            f"--resume {folder.path}",
            file=sys.stderr,
            flush=True,
        )
    for child in take_children(trainer):
        child.kill()
    if main and not folder.why_lost():
        folder.write_status(state="interrupted")


def _at_its_end(trainer: pl.Trainer) -> bool:
    """Whether the last step or epoch was reached, rather than ``trainer.max_time``."""
    if 0 <= trainer.max_steps <= trainer.global_step:
        return True
    return trainer.max_epochs is not None and 0 <= trainer.max_epochs <= trainer.current_epoch


def _record_failure(folder: RunFolder, step: int) -> None:
    with contextlib.suppress(OSError, TrainingError):  # the disk may be what failed
        if not folder.why_lost():  # what is gone must not come back half
            folder.write_status(state="failed", step=step)


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


def build(config: DictConfig) -> tuple[Any, Any]:
    """Build the task (with its model) and the data module of a config."""
    check_parts(config)
    task, data = instantiate(config.task, "task"), instantiate(config.data, "data")
    check_built(task, data)
    return task, data


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
            begun = folder.config.exists() and bool(folder.resumable())
            train(config, folder, reuse and begun, init)
        return
    prepared = Prepared(config, folder)
    if if_exists == "resume" and folder.config.exists() and folder.complete:
        _reuse(prepared, init, say)  # which may lie where nothing can be written
        return
    with _claimed(folder, say):
        _open_claimed(prepared, if_exists, say, init)


def _reuse(prepared: Prepared, init: InitFrom | None, say: Callable[[str], None]) -> None:
    _check_same(prepared, init)
    say(f"{prepared.folder.path} is complete: reusing it")


def _open_claimed(
    prepared: Prepared, if_exists: str, say: Callable[[str], None], init: InitFrom | None
) -> None:
    """The same in a folder in which no other process can begin or end a run meanwhile."""
    folder = prepared.folder
    if not folder.config.exists():
        say(f"starting {folder.path}")
        _train(prepared, False, init, say)
        return
    if not folder.resumable() and folder.status().get("state") == "failed":
        say(f"{folder.path} failed before its first checkpoint: starting again")
        _train(prepared, False, init, say)
        return
    if if_exists == "error" and not folder.resumable():
        raise ConfigError(
            f"{folder.path} exists already and holds no checkpoint: delete it to start again, or "
            "choose another name with name=..."
        )
    if if_exists == "error":
        raise ConfigError(
            f"{folder.path} exists already: continue it with --resume {folder.path}, or choose "
            "another name with name=..."
        )
    if folder.complete:
        _reuse(prepared, init, say)
        return
    _check_same(prepared, init)
    if folder.resumable():
        say(f"continuing {folder.path}")
        _train(prepared, True, None, say)
    else:
        say(f"{folder.path} holds no checkpoint yet: starting again")
        _train(prepared, False, init, say)


def _check_same(prepared: Prepared, init: InitFrom | None) -> None:
    folder = prepared.folder
    remedy = f"delete {folder.path} or choose another name with name=..."
    if changed := list(prepared.changed):
        raise ConfigError(
            f"{folder.path} was made with another config (it differs in {', '.join(changed[:5])}): "
            + remedy
        )
    _ = prepared.moved  # refuses other weights
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
