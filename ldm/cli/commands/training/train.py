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
from collections.abc import Sequence
from pathlib import Path

from ldm.cli.options.common import new_parser
from ldm.config import load_config
from ldm.errors import ConfigError, UserError


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of the program, with the config that they name.

    Returns:
        The options; ``config`` is the merged configuration, ``folder`` the run folder.
    """
    options = _parser().parse_intermixed_args(arguments)
    _check_init(options)
    files = [item for item in options.config if "=" not in item]
    overrides = [item for item in options.config if "=" in item]
    if options.resume:
        if files:
            raise UserError(f"--resume takes its config from the run; leave out {files[0]}")
        options.folder = Path(options.resume)
        saved = options.folder / "config.yaml"
        if not saved.exists():
            raise UserError(f"--resume {options.folder}: no such run (it has no config.yaml)")
        options.config = load_config(saved, overrides=overrides)
    elif files:
        options.config = load_config(*files, overrides=overrides)
        if "name" not in options.config:
            raise ConfigError("name: missing; it names the run folder, e.g. +name=my-first-run")
        options.folder = Path(options.runs) / options.config.name
    else:
        raise UserError("give a config file, or --resume RUN; --help shows examples")
    return options


def _check_init(options: argparse.Namespace) -> None:
    if options.init_from is None and options.init_partial:
        raise UserError("--init-partial goes with --init-from")
    if options.init_from is not None and options.resume:
        raise UserError("--resume continues with the run's own weights; leave out --init-from")


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("train", __doc__)
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
