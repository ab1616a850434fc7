"""Train one stage of a latent diffusion model from a config."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sized
from typing import Any

import torch
from omegaconf import DictConfig

from ldm.cli import app
from ldm.experiment import trainer_options
from ldm.load.init_from import InitFrom
from ldm.load.model import inline_pretrained, trust_pretrained
from ldm.training.checks import check_optimizers
from ldm.training.launch import give_way_to_main_process, is_main_process
from ldm.training.run import begin, build, open_run, train
from ldm.training.run_folder import RunFolder


def say(text: str) -> None:
    """Tell the user; a training goes on where nobody reads any more."""
    try:
        app.say(text)
    except (OSError, ValueError):  # a pipe whose reader is gone, a closed file
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (to the end of the process)


def run(options: argparse.Namespace) -> None:
    """Start, continue or rehearse a run; of several processes one reports what went wrong."""
    try:
        with options.claim:
            _train(options)
    except Exception:
        give_way_to_main_process()
        raise


def _train(options: argparse.Namespace) -> None:
    config, folder = options.config, RunFolder(options.folder)
    if options.trust:  # of configs that the user's own names
        config = trust_pretrained(config)
    init = InitFrom(options.init_from, options.init_partial) if options.init_from else None
    if options.dry_run:
        _dry_run(config, init)
        return
    if options.resume:
        if is_main_process():
            say(f"continuing {folder.path}")
        train(config, folder, resume=True, say=say)
    else:
        open_run(folder, config, options.if_exists, say, init)
    if is_main_process():
        _summary(folder)


def _dry_run(config: DictConfig, init: InitFrom | None) -> None:
    trainer_options(config)
    with torch.device("meta"):
        task, data = build(inline_pretrained(config))
        check_optimizers(task)
    if init is not None:
        begin(task, init, say)
    say(f"{config.name}: builds")
    for name, module in getattr(task, "model", task).named_children():
        total = sum(p.numel() for p in module.parameters())
        trainable = sum(p.numel() for p in module.parameters() if p.requires_grad)
        say(f"  {name:<16} {total / 1e6:9.3f} M parameters, {trainable / 1e6:9.3f} M trained")
    say(f"  training set     {_size(data, 'train')}, validation set {_size(data, 'validation')}")


def _size(data: Any, split: str) -> str:
    dataset = getattr(data, split, None)
    return f"{len(dataset)} items" if isinstance(dataset, Sized) else "of no known length"


def _summary(folder: RunFolder) -> None:
    status = folder.status()
    state, step = status.get("state", "unknown"), status.get("step", "unknown")
    say(f"{folder.path}: {state} at step {step} after {status.get('seconds', 0):.0f} s")
    places = {"checkpoints": folder.last.parent, "curves": folder.curves, "config": folder.config}
    there = [f"{what} {place}" for what, place in places.items() if place.exists()]
    say(f"  {'   '.join(there)}")  # a run of a few steps has no curves yet
