"""What the scripts for first stages share: which model, from where, and images that fit it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from _cli import check_device
from _evaluation import Data, validation_data
from _sampling import default_device
from omegaconf import DictConfig
from torch import Tensor

from ldm.checkpoint import SUFFIXES
from ldm.config import load_config
from ldm.data.folder import ImageFolder
from ldm.diffusion.latent import LatentDiffusion
from ldm.errors import UserError
from ldm.load import file_sha256, load_model, run_checkpoint, run_config

DEFAULT_SIZE = 256


def add_source_options(parser: argparse.ArgumentParser) -> None:
    """RUN_OR_CHECKPOINT and the options that go with it."""
    parser.add_argument(
        "source",
        metavar="RUN_OR_CHECKPOINT",
        help="run folder, folder of diffusers, or with --config a checkpoint file",
    )
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


def load_first_stage(arguments: argparse.Namespace) -> tuple[Any, DictConfig]:
    """The model, in eval mode on the device, and the config that describes it."""
    check_device(arguments.device)
    source, ema, device = arguments.source, not arguments.no_ema, arguments.device
    if arguments.checkpoint and Path(source).suffix in SUFFIXES:
        raise UserError(f"{source} is a checkpoint file itself: leave out --checkpoint")
    if arguments.config:
        if Path(source).is_dir() or arguments.checkpoint:
            raise UserError("--config goes with a checkpoint file as first argument")
        config = load_yaml("--config", arguments.config, complete=False)  # its data may be absent
        model: Any = load_model(config, source, ema, device)
    else:
        config = run_config(source)
        model = load_model(source, arguments.checkpoint, ema, device)
    if isinstance(model, LatentDiffusion) or not hasattr(model, "downsampling_factor"):
        raise UserError(
            f"{source} holds a {type(model).__name__}, not an autoencoder: name the run of stage "
            "1; to measure a diffusion model, sample first, then use scripts/evaluate.py"
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


def is_run(source: str) -> bool:
    """Whether it is the folder of a training run, into which results may be written."""
    return (Path(source) / "checkpoints").is_dir()


def name_of(source: str) -> str:
    """A short name for a source that is no run."""
    path = Path(source)
    return path.resolve().name if path.is_dir() else path.stem


def image_channels(model: Any) -> int:
    """Channels of the images that a first stage takes."""
    return int(model.image_channels)


def image_mode(model: Any, source: str) -> str:
    """How image files are to be read for a model.

    Raises:
        UserError: no image file has its channels.
    """
    channels = image_channels(model)
    modes = {1: "L", 3: "RGB", 4: "RGBA"}
    if channels not in modes:
        raise UserError(
            f"{source} takes images of {channels} channels, image files have 1, 3 or 4: give a "
            "data set of arrays (configs/autoencoder/data/arrays.yaml) as --data of "
            "scripts/evaluate_autoencoder.py"
        )
    return modes[channels]


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """The options that ``load_data`` reads."""
    parser.add_argument(
        "--data",
        nargs="+",
        metavar="FOLDER_OR_YAML",
        help="folder of images, or YAML with a data node, then key=value overrides (default: the "
        "validation data of the run)",
    )
    parser.add_argument(
        "--size",
        type=int,
        help="with a folder: shorter side and centre crop (default: the config's image_size, or "
        f"{DEFAULT_SIZE})",
    )


def load_data(arguments: argparse.Namespace, config: DictConfig, model: Any) -> tuple[Data, str]:
    """The images of --data, else the validation images of the run; and what to call them."""
    place, *overrides = arguments.data or [None]
    where = f"--data {place}"
    if place is not None and Path(place).is_dir():
        if overrides:
            raise UserError(f"{where} is a folder: leave out {overrides[0]}")
        return _folder(place, arguments.size, config, model, arguments.source), where
    if arguments.size is not None:
        raise UserError(f"--size {arguments.size} goes with a folder of images as --data")
    if place is None:
        if "data" not in config:
            raise UserError(f"{arguments.source} names no data of its own: give --data FOLDER")
        where = f"validation data of {arguments.source}"
        return validation_data(config, where), where
    if not Path(place).is_file():
        raise UserError(f"{where}: no such folder or YAML file")
    return validation_data(load_yaml("--data", arguments.data), where), where


def _folder(
    root: str, size: int | None, config: DictConfig, model: Any, source: str
) -> ImageFolder:
    size = size if size is not None else config.get("image_size", DEFAULT_SIZE)
    return ImageFolder(
        root,
        size if isinstance(size, int) else list(size),
        split="all",
        mode=image_mode(model, source),
        captions="none",
        classes="none",
        broken="error",  # the one taken instead would count twice
    )


def check_images(image: Tensor, model: Any, arguments: argparse.Namespace, where: str) -> None:
    """Refuse images (C, H, W) that the model cannot take."""
    channels, height, width = image.shape
    if channels != image_channels(model):
        raise UserError(
            f"{where} has images of {channels} channels, {arguments.source} takes "
            f"{image_channels(model)}"
        )
    f = model.downsampling_factor
    if height % f or width % f:
        option = f"--size {height}" if arguments.size else f"{where}: {height}x{width} pixels"
        raise UserError(f"{option}: the sides must be multiples of f = {f}")
