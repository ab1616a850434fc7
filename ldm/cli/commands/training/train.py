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
128 + the number of the signal (130, 143, 138), and status.json says "interrupted". A second Ctrl-C
or SIGTERM does not wait. An error in what was asked for, a run that another process trains, or a
disk that is full gives one line and the status 2. Several processes, several computers, SLURM:
docs/clusters.md.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from ldm.cli.app import say
from ldm.cli.options.common import new_parser
from ldm.cli.options.configs import is_override, read_config, split_config
from ldm.cli.options.model import add_trust_option
from ldm.config import load_config
from ldm.config.trust import mark_foreign, refuse_foreign
from ldm.errors import ConfigError, UserError
from ldm.experiment import check_experiment, check_places
from ldm.files import LONGEST_NAME
from ldm.locks import RUN_LOCK, run_lock

_RANKS = {"RANK", "LOCAL_RANK", "SLURM_PROCID", "NODE_RANK", "JSM_NAMESPACE_RANK"}
"""Variables by which launchers tell a process which of several it is."""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of the program, with the config that they name.

    Returns:
        The options; ``config`` is the merged configuration, ``folder`` the run folder.
    """
    options = _parser().parse_intermixed_args(arguments)
    try:
        _check_init(options)
        options.config, options.folder = _config(options)
        check_experiment(options.config)
        if not options.resume:  # which needs no first stage any more
            check_places(options.config)
    except UserError:
        if _RANKS & os.environ.keys():  # several processes meet the same: one reports
            from ldm.training.launch import give_way_to_main_process

            give_way_to_main_process()
        raise
    return options


def check_files(options: argparse.Namespace) -> None:
    """Claim the folder of the run, or refuse one that is being trained: libraries take a while.

    The lock is part of the options from now on, as ``claim``, which whoever runs them closes.
    """
    options.claim = contextlib.ExitStack()
    atexit.register(options.claim.close)
    elsewhere = options.folder.is_dir() and not os.access(options.folder, os.W_OK)
    first = all(os.environ.get(name, "0") == "0" for name in _RANKS)
    if first and not elsewhere and not options.dry_run:  # a complete run may lie anywhere
        options.claim.enter_context(run_lock(options.folder / RUN_LOCK, say))


def _config(options: argparse.Namespace) -> tuple[DictConfig, Path]:
    """What to train, and the folder of the run."""
    if options.resume:
        files, overrides = split_config(options.config)
        if files:
            raise UserError(f"--resume takes its config from the run; leave out {files[0]}")
        folder = Path(options.resume)
        saved = folder / "config.yaml"
        if not saved.exists():
            raise UserError(f"--resume {folder}: no such run (it has no config.yaml)")
        config = mark_foreign(load_config(saved, overrides=overrides), saved, options.trust)
        refuse_foreign(config)
        return config, folder
    if all(map(is_override, options.config)):
        raise UserError("give a config file, or --resume RUN; --help shows examples")
    config = read_config(options.config)
    if "name" not in config:
        raise ConfigError("name: missing; it names the run folder, e.g. +name=my-first-run")
    _check_name(config.name)
    return config, Path(options.runs) / config.name


def _check_name(name: Any) -> None:
    """Refuse what cannot be the name of a folder, and what lists of folders do not show."""
    if not isinstance(name, str):
        raise ConfigError(f"name: expected text, got {name!r}; it names the run folder")
    if problem := _problem_of(name):
        shortened = name if len(name) <= 60 else f"{name[:60]}..."
        raise ConfigError(
            f"name: {shortened!r} cannot name the run folder: {problem}; give name=TEXT"
        )


def _problem_of(name: str) -> str:
    """What is wrong with the name of a folder; "": nothing."""
    if not name.strip():
        return "it is empty"
    if name.startswith("."):
        return "it begins with a dot, so the folder would be hidden"
    if "/" in name:
        return "it holds a / (the folder of all runs is --runs)"
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in name):
        return "it holds a control character"
    try:
        too_long = len(os.fsencode(name)) > LONGEST_NAME
    except UnicodeEncodeError:
        return "it holds half a character"
    return f"it has more than {LONGEST_NAME} bytes" if too_long else ""


def _check_init(options: argparse.Namespace) -> None:
    if options.init_from is None:
        if options.init_partial:
            raise UserError("--init-partial goes with --init-from")
    elif options.resume:
        raise UserError("--resume continues with the run's own weights; leave out --init-from")
    elif not Path(options.init_from).exists():
        raise UserError(f"--init-from {options.init_from}: no such checkpoint file or folder")


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
    add_trust_option(parser)
    parser.add_argument("--runs", default="runs", help="folder of all runs (default: runs)")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="build model, data and optimiser without storage for weights, print sizes, and stop",
    )
    return parser
