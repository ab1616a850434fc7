"""Which model a script works on, and where it lies: run, checkpoint with config, diffusers."""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from typing import Any

import torch
from _cli import check_device
from omegaconf import DictConfig, OmegaConf

from ldm.checkpoint import SUFFIXES, file_sha256
from ldm.config import load_config
from ldm.diffusion.latent import LatentDiffusion
from ldm.errors import UserError
from ldm.layers.compiling import compile_networks
from ldm.load import load_model, run_checkpoint, run_config
from ldm.source import locate


def default_device() -> str:
    """The accelerator if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def add_source_options(
    parser: argparse.ArgumentParser,
    name: str = "RUN_OR_CHECKPOINT",
    about: str = "run folder, folder of diffusers, or with --config a checkpoint file",
) -> None:
    """A model as first argument, called ``name`` in the help, and the options that go with it."""
    parser.add_argument("source", metavar=name, help=about)
    parser.add_argument(
        "--config",
        nargs="+",
        metavar="YAML",
        help="of a checkpoint file: its config (of this library or the original code), then "
        "key=value overrides",
    )
    parser.add_argument("--checkpoint", help="of a run: last (default), best, or a file")
    parser.add_argument("--no-ema", action="store_true", help="the weights before averaging")
    parser.add_argument("--device", default=default_device(), help="cpu, cuda, cuda:1, mps")
    parser.add_argument(
        "--compile",
        action="store_true",
        help="torch.compile: the first batch takes minutes, all others less time",
    )


def load_source(arguments: argparse.Namespace) -> tuple[Any, DictConfig]:
    """The model, in eval mode on the device, and the config that describes it."""
    model, config = _load_source(arguments)
    if arguments.compile:
        compile_networks(model)
    return model, config


def _load_source(arguments: argparse.Namespace) -> tuple[Any, DictConfig]:
    check_device(arguments.device)
    source, ema, device = arguments.source, not arguments.no_ema, arguments.device
    if arguments.checkpoint and Path(source).suffix in SUFFIXES:
        raise UserError(f"{source} is a checkpoint file itself: leave out --checkpoint")
    if arguments.config:
        if Path(source).is_dir() or arguments.checkpoint:
            raise UserError("--config goes with a checkpoint file as first argument")
        config = load_yaml("--config", arguments.config, complete=False)  # its data may be absent
        return load_model(config, source, ema, device), with_images(config)
    config = run_config(source)
    return load_model(source, arguments.checkpoint, ema, device), with_images(config)


def with_images(config: DictConfig) -> DictConfig:
    """The config with the images in place of their cached latents, if it trained on those."""
    config = copy.deepcopy(config)
    for name, node in config.get("uncached", {}).items():
        found = OmegaConf.select(config, f"data.params.{name}.target")
        if str(found).endswith(".CachedLatents"):
            config.data.params[name] = node
    return config


def load_latent_diffusion(arguments: argparse.Namespace) -> tuple[LatentDiffusion, DictConfig]:
    """As ``load_source``; refuses what is no latent diffusion model."""
    model, config = load_source(arguments)
    if not isinstance(model, LatentDiffusion):
        raise UserError(
            f"{arguments.source} holds a {type(model).__name__}, not a latent diffusion model: "
            "name the run of stage 2; what each script takes is in docs/sampling.md, first stages "
            "are measured by scripts/evaluate_autoencoder.py"
        )
    return model, config


def load_yaml(option: str, items: list[str], complete: bool = True) -> DictConfig:
    """YAML files and ``key=value`` overrides of an option, merged; see ``load_config``."""
    files = [item for item in items if "=" not in item]
    if not files:
        raise UserError(f"{option} {items[0]}: name a YAML file before it")
    overrides = [item for item in items if "=" in item]
    return load_config(*files, overrides=overrides, complete=complete)


def subject(arguments: argparse.Namespace) -> dict[str, Any]:
    """Which weights are used, for the record."""
    if arguments.config:
        file = Path(arguments.source)
    else:
        file = run_checkpoint(arguments.source, arguments.checkpoint)
    return {
        "source": str(arguments.source),
        "checkpoint": str(file),
        "checkpoint_sha256": file_sha256(file),
        "ema": not arguments.no_ema,
    }


def other_weights(arguments: argparse.Namespace) -> dict[str, str]:
    """SHA-256 of the files of a pipeline of diffusers beside that of ``subject``, by path."""
    if arguments.config:
        return {}
    _, *others = locate(arguments.source, arguments.checkpoint).files()
    return {str(file): file_sha256(file) for file in others}


def is_model(arguments: argparse.Namespace) -> bool:
    """Whether the first argument is a model, and not a folder or file of images."""
    path = Path(arguments.source)
    described = any((path / name).is_file() for name in ("config.yaml", "model_index.json"))
    return bool(arguments.config) or path.suffix in SUFFIXES or described


def is_run(source: str) -> bool:
    """Whether it is the folder of a training run, into which results may be written."""
    return (Path(source) / "checkpoints").is_dir()


def name_of(source: str) -> str:
    """A short name for a source that is no run."""
    path = Path(source)
    return path.resolve().name if path.is_dir() else path.stem
