"""Train one stage of a latent diffusion model from a config.

Examples:
  python scripts/train.py configs/folder/autoencoder.yaml data_root=photos
  python scripts/train.py configs/folder/unconditional.yaml data_root=photos
  python scripts/train.py base.yaml mine.yaml seed=1           later files and key=value win
  python scripts/train.py --resume runs/mine                   continue where it stopped
  python scripts/train.py --resume runs/mine trainer.max_steps=200000       and for longer
  python scripts/train.py CONFIG --init-from sd-v1-4.ckpt      fine-tune another model
  python scripts/train.py CONFIG --dry-run                     build it, count parameters

--init-from takes a checkpoint file or folder of this library, of the original code, of Stable
Diffusion (v1, v2) or of diffusers, averaged weights where it has them, and prints what was loaded,
what is new and what was ignored.

A run writes runs/NAME/: config.yaml (resolved), checkpoints/, metrics.jsonl, curves.png,
samples/*.png, tensorboard/, status.json. NAME is the config's `name`. The checkpoints are
last.ckpt, previous.ckpt (the one before: --resume takes it where the last is damaged), best.ckpt
(of the lowest validation loss) and, with every.keep=N, one of each N-th step that stays.

Ctrl-C, SIGTERM and SIGUSR1 end a run after the step it is in, with a checkpoint; the exit status is
128 + the number of the signal (130, 143, 138), and status.json says "interrupted". An error in what
was asked for, or a disk that is full, gives one line and the status 2. Several processes, several
computers, SLURM: docs/clusters.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from _cli import run, say
from omegaconf import DictConfig

from ldm.config import load_config
from ldm.errors import ConfigError, UserError
from ldm.initialise import InitFrom
from ldm.load import inline_pretrained
from ldm.training.processes import give_way_to_main_process, is_main_process
from ldm.training.run import begin, build, open_run, train
from ldm.training.run_folder import RunFolder
from ldm.training.trainer import trainer_options


def main() -> None:
    """Start, continue or rehearse a run; of several processes one reports what went wrong."""
    try:
        _train()
    except Exception:
        give_way_to_main_process()
        raise


def _train() -> None:
    arguments = _parser().parse_intermixed_args()
    files = [item for item in arguments.config if "=" not in item]
    overrides = [item for item in arguments.config if "=" in item]
    if arguments.resume:
        if files:
            raise UserError(f"--resume takes its config from the run; leave out {files[0]}")
        folder = RunFolder(Path(arguments.resume))
        if not folder.config.exists():
            raise UserError(f"--resume {folder.path}: no such run (it has no config.yaml)")
        config = load_config(folder.config, overrides=overrides)
    elif files:
        config = load_config(*files, overrides=overrides)
        if "name" not in config:
            raise ConfigError("name: missing; it names the run folder, e.g. +name=my-first-run")
        folder = RunFolder(Path(arguments.runs) / config.name)
    else:
        raise UserError("give a config file, or --resume RUN; --help shows examples")

    init = _init_from(arguments)
    if arguments.dry_run:
        _dry_run(config, init)
    elif arguments.resume:
        if is_main_process():
            say(f"continuing {folder.path}")
        train(config, folder, resume=True, say=say)
    else:
        open_run(folder, config, arguments.if_exists, say, init)
    if not arguments.dry_run and is_main_process():
        _summary(folder)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "config", nargs="*", help="YAML files, merged left to right, then key=value overrides"
    )
    parser.add_argument("--resume", metavar="RUN", help="continue the run in this folder")
    parser.add_argument(
        "--if-exists",
        choices=["error", "resume"],
        default="error",
        help="if the run folder exists: stop (default), or continue/reuse it when its config is "
        "the same",
    )
    parser.add_argument(
        "--init-from",
        metavar="CHECKPOINT",
        help="begin with these weights; any that is missing, surplus or of another shape is an "
        "error",
    )
    parser.add_argument(
        "--init-partial",
        action="store_true",
        help="with --init-from: load what fits, and leave the rest as the config builds it",
    )
    parser.add_argument("--runs", default="runs", help="folder of all runs (default: runs)")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="build model, data and optimiser without storage for weights, print sizes, and stop",
    )
    return parser


def _init_from(arguments: argparse.Namespace) -> InitFrom | None:
    if arguments.init_from is None:
        if arguments.init_partial:
            raise UserError("--init-partial goes with --init-from")
        return None
    if arguments.resume:
        raise UserError("--resume continues with the run's own weights; leave out --init-from")
    return InitFrom(arguments.init_from, arguments.init_partial)


def _dry_run(config: DictConfig, init: InitFrom | None) -> None:
    trainer_options(config)
    with torch.device("meta"):
        task, data = build(inline_pretrained(config))
        task.configure_optimizers()
    if init is not None:
        begin(task, init, say)
    say(f"{config.name}: builds")
    for name, module in task.model.named_children():
        total = sum(p.numel() for p in module.parameters())
        trainable = sum(p.numel() for p in module.parameters() if p.requires_grad)
        say(f"  {name:<16} {total / 1e6:9.3f} M parameters, {trainable / 1e6:9.3f} M trained")
    say(f"  training set     {len(data.train)} items, validation set {len(data.validation)} items")


def _summary(folder: RunFolder) -> None:
    status = folder.status()
    say(
        f"{folder.path}: {status['state']} at step {status['step']} after {status['seconds']:.0f} s"
    )
    say(f"  checkpoints {folder.last.parent}   curves {folder.curves}   config {folder.config}")


if __name__ == "__main__":
    run(main)
