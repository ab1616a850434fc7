"""What the scripts for first stages share: which model, from where, and images that fit it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from _evaluation import Data, validation_data
from _model import add_source_options, is_run, load_source, load_yaml, name_of, subject
from omegaconf import DictConfig
from torch import Tensor

from ldm.data.folder import ImageFolder
from ldm.diffusion.latent import LatentDiffusion
from ldm.errors import UserError

__all__ = ["add_source_options", "is_run", "name_of", "subject"]  # for the scripts of stage 1

DEFAULT_SIZE = 256


def load_first_stage(arguments: argparse.Namespace) -> tuple[Any, DictConfig]:
    """The model, in eval mode on the device, and the config that describes it."""
    model, config = load_source(arguments)
    if isinstance(model, LatentDiffusion) or not hasattr(model, "downsampling_factor"):
        raise UserError(
            f"{arguments.source} holds a {type(model).__name__}, not an autoencoder: name the run "
            "of stage 1; to measure a diffusion model, sample first, then use scripts/evaluate.py"
        )
    return model, config


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
