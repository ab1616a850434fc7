"""The Lightning trainer of a run, with what every run logs, draws and saves."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig
from pytorch_lightning.callbacks import ModelCheckpoint

from ldm.config.paths import failure
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.errors import ConfigError
from ldm.experiment import ema_decay, intervals, peak_tflops, profile_options, trainer_options
from ldm.training.callbacks.checkpointing import AtomicCheckpointIO, SaveCheckpoints
from ldm.training.callbacks.ema import EMACallback
from ldm.training.callbacks.images import EpochOfData, LossCurves, PictureGrid
from ldm.training.callbacks.metrics import MetricsLog, TensorBoardLog
from ldm.training.callbacks.profiler import ProfileSteps
from ldm.training.callbacks.progress import StepProgress
from ldm.training.callbacks.throughput import Throughput
from ldm.training.data.position import Position
from ldm.training.data.seeded import StepRandomness
from ldm.training.resume import Resumed
from ldm.training.run_folder import RunFolder
from ldm.training.signals import StopSignals
from ldm.training.strategy import StateLayout, check_sharding, speed_up


def make_trainer(
    config: DictConfig,
    folder: RunFolder,
    task: Any,
    signals: StopSignals,
    resumed: Resumed | None = None,
) -> pl.Trainer:
    """A trainer as the nodes ``trainer``, ``every``, ``ema_decay`` and ``compile`` ask for.

    Args:
        config: the config of the run.
        folder: where the run lies.
        task: what is trained.
        signals: whether the run was asked to end.
        resumed: the checkpoint that the run is resumed from.

    Raises:
        ConfigError: one of them holds a key or value that does not fit.
    """
    options = trainer_options(config)
    if hasattr(task, "guard"):
        task.guard.exchange = signals.exchange  # the wish to end goes along
    _check_precision(str(options.get("precision", "32-true")), task)
    if not task.automatic_optimization:
        _adapt_to_two_optimisers(options, task)
    speed_up(task, config.get("compile", False))
    every = intervals(config)
    strategy = str(options.get("strategy", "auto"))
    check_sharding(strategy, task, ema_decay(config), every["images"])
    callbacks = _callbacks(config, every, folder, task, signals)
    parts = options.get("accumulate_grad_batches", 1)
    defaults = {
        "devices": 1,
        "max_epochs": -1 if "max_steps" in options else None,
        "num_sanity_val_steps": 0,
        "enable_model_summary": False,
        "val_check_interval": every["validation"] * parts,
        "check_val_every_n_epoch": None,
        "log_every_n_steps": every["log"],
        "use_distributed_sampler": False,  # the data module shares the data out
    }
    limit = options.get("limit_val_batches")
    if isinstance(limit, int):  # of whole batches, whatever parts they come in
        options["limit_val_batches"] = limit * parts
    try:
        return pl.Trainer(
            **(defaults | options),
            callbacks=callbacks,
            logger=[MetricsLog(folder.metrics, folder.check_own), TensorBoardLog(folder.path)],
            plugins=[AtomicCheckpointIO(folder, resumed)],
            default_root_dir=folder.path,
            enable_progress_bar=False,
        )
    except Exception as error:  # Lightning's checks have many classes
        raise ConfigError(f"trainer: {failure(error)}") from error


def _callbacks(
    config: DictConfig, every: dict[str, int], folder: RunFolder, task: Any, signals: StopSignals
) -> list[pl.Callback]:
    """What every run does beside the optimisation, in the order in which it is done."""
    throughput = Throughput(every["log"], peak_tflops(config))
    position = Position()
    callbacks: list[pl.Callback] = [
        throughput,
        StepProgress(config.name, throughput),
        StateLayout(),
        EpochOfData(),
        position,
        StepRandomness(config.get("seed", 0), position),
    ]
    decay = ema_decay(config)
    ema = EMACallback(decay) if decay else None
    if ema is not None:
        callbacks.append(ema)
    if every["images"] and hasattr(task, "preview"):
        pause, check = throughput.stand_still, folder.check_own
        pictures = PictureGrid(folder.samples, every["images"], ema=ema, pause=pause, check=check)
        callbacks.append(pictures)
    profile = profile_options(config.get("profile"))
    if profile is not None:
        callbacks.append(ProfileSteps(folder.profiles, **profile))
    best = ModelCheckpoint(
        folder.checkpoints, filename="best", monitor=task.monitor, enable_version_counter=False
    )
    return [
        *callbacks,
        LossCurves(folder.metrics, folder.curves),
        SaveCheckpoints(folder, every["checkpoint"], every["keep"], signals),
        best,
    ]


def _check_precision(precision: str, task: Any) -> None:
    """Refuse weights in a precision that the networks of a task cannot work with."""
    first_stage = not task.automatic_optimization
    diffusion = isinstance(getattr(task, "model", None), LatentDiffusion)
    half = precision in ("16-true", "bf16-true")
    if (half and (first_stage or diffusion)) or (precision == "64-true" and first_stage):
        raise ConfigError(
            f"trainer.precision: {'a first stage' if first_stage else 'a diffusion model'} needs "
            f"weights in float32, not {precision}: bf16-mixed keeps them and computes in bfloat16"
        )


def _adapt_to_two_optimisers(options: dict[str, Any], task: Any) -> None:
    """Take from the options of Lightning what a task has to do that optimises by hand."""
    # Lightning neither accumulates for a task with two optimisers nor expects that the backward
    # pass of each leaves out the parameters of the other.
    task.micro_batches = options.pop("accumulate_grad_batches", 1)
    if options.get("devices", 1) != 1 or options.get("num_nodes", 1) != 1:
        options.setdefault("strategy", "ddp_find_unused_parameters_true")
