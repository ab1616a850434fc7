"""What programs of evaluation share: a feature network, a first stage, images, reports on disk."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from ldm.cli.app import say
from ldm.cli.images import MODES
from ldm.cli.model import load_source, load_yaml
from ldm.cli.options.evaluation import DEFAULT_SIZE
from ldm.cli.protocol import load_network
from ldm.config import instantiate
from ldm.config.trust import mark_if_beside
from ldm.data.folder import ImageFolder
from ldm.data.framing import KEEP, Framing
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.errors import UserError
from ldm.evaluation.networks.base import Network
from ldm.evaluation.report import INCEPTION, EvaluationReport, describe_source, resolution
from ldm.evaluation.scenes.judge import ASPECTS, check, summarise, validate_judge
from ldm.evaluation.sources.base import ImageSource
from ldm.files import write_text
from ldm.load.model import Source

Data = Dataset[Any]

JUDGED_SCENES = 500
"""Real scenes by which the judge shows that it can tell."""


def feature_network(arguments: argparse.Namespace) -> Network | None:
    """The network of --features, on the device; None if there is to be none.

    Raises:
        UserError: it is unknown, no feature network, or its weights are absent.
    """
    name, weights = arguments.features, arguments.inception_weights
    if name is None and weights is None:
        return None
    name = name or INCEPTION
    if weights is not None and (Path(name).exists() or "." in name):
        raise UserError(f"--inception-weights goes with a published network, {name} is none")
    found: Network = load_network(name, weights, trust=arguments.trust).to(arguments.device)
    return found


def validation_data(node: DictConfig, where: str) -> Data:
    """The validation set of a data node, without its training set, which may be large or absent."""
    node = node.data if "data" in node else node
    parts = node.get("params")
    if parts and "validation" in parts:
        return instantiate(parts.validation)
    module: Any = instantiate(node)
    if hasattr(module, "__getitem__") and not isinstance(module, dict):
        dataset: Data = module
        return dataset
    if not hasattr(module, "validation"):
        raise UserError(f"{where}: neither a data set nor a node of ldm.training.DataModule")
    return module.validation


def some_images(dataset: Data, num: int | None, where: str) -> Data:
    """``num`` items evenly from all, since folders are sorted by class; None: all."""
    available = len(dataset)  # type: ignore[arg-type]
    if num is None:
        return dataset
    if not 1 <= num <= available:
        raise UserError(f"--num {num}: {where} has {available} images; give 1 to {available}")
    return Subset(dataset, [k * available // num for k in range(num)])


def image_batches(dataset: Data, batch_size: int, workers: int = 0) -> Iterator[Tensor]:
    """The images (B, C, H, W) of a data set in order."""
    for batch in DataLoader(dataset, batch_size=batch_size, num_workers=workers):
        yield batch["image"]


def describe_data(dataset: Any, where: str) -> str:
    """Which images these are."""
    root = str(getattr(dataset, "root", ""))
    kind = type(dataset).__name__ + (f" {root}" if root not in where else "")
    return f"{where} ({kind})"


def describe_preprocessing(dataset: Any) -> str:
    """How its images were resized and cropped."""
    framing = getattr(dataset, "framing", None)
    if not isinstance(framing, Framing):
        return "as the data set gives them"
    if framing.resize == KEEP:
        resize = "not resized"
    elif framing.resize is None and framing.height == framing.width:
        resize = f"shorter side to {framing.height} ({framing.interpolation})"
    elif framing.resize is None:
        resize = f"to the smallest size that covers the crop ({framing.interpolation})"
    else:
        resize = f"shorter side to {framing.resize} ({framing.interpolation})"
    crop = f"{framing.crop} crop {framing.height}x{framing.width}"
    if framing.crop_scale is not None:
        crop += f" at scale {'-'.join(map(str, framing.crop_scale))}"
    parts = [resize, crop] + ([f"mirrored with p={framing.flip}"] if framing.flip else [])
    if isinstance(dataset, ImageFolder) and framing.needed is not None:
        parts.append(f"JPEGs from {4 * framing.needed} pixels on decoded at a fraction of that")
    return ", ".join(parts)


def add_verdicts(report: EvaluationReport, real: ImageSource, fake: ImageSource) -> None:
    """Shares of images that show their prompts, once the judge has shown that it can tell.

    Raises:
        UserError: images without captions, or scenes that the judge cannot read.
    """
    scenes = _captioned(real, JUDGED_SCENES)
    samples = _captioned(fake, None)
    accuracy = validate_judge(scenes, len(scenes))
    before = report.measurements  # of the same images: the table says once what they are
    data = before[0].data if before else describe_source(fake.info)
    about: dict[str, Any] = {"resolution": resolution(fake.info), "data": data}
    note = f"share of {len(scenes)} real scenes that the judge reads without error"
    report.add("judge_accuracy", accuracy, num_real=len(scenes), num_fake=0, note=note, **about)
    shares = summarise([check(item["image"], item["caption"]) for item in samples])
    for name, note in ASPECTS.items():
        if name in shares:
            report.add(name, shares[name], num_real=0, num_fake=len(samples), note=note, **about)


def _captioned(source: ImageSource, most: int | None) -> list[dict[str, Any]]:
    """The first images (3, H, W) in [-1, 1] of a source, and their captions."""
    items: list[dict[str, Any]] = []
    for batch in source.batches(64):
        if batch.captions is None:
            raise UserError(f"--judge needs captions, which the images of {source.info.where} lack")
        for image, caption in zip(batch.images, batch.captions, strict=True):
            items.append({"image": image.float() / 127.5 - 1, "caption": caption})
        if most is not None and len(items) >= most:
            break
    return items[:most]


def write_report(report: EvaluationReport, out: Path) -> None:
    """Write the JSON, complete or not at all, and print the table."""
    text = report.to_json() + "\n"
    write_text(out, text)
    say(report.table())
    say(f"written to {out}")


def load_first_stage(source: Source, arguments: argparse.Namespace) -> tuple[Any, DictConfig]:
    """The model, in eval mode on the device, and the config that describes it."""
    model, config = load_source(source, arguments)
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
    if channels not in MODES:
        raise UserError(
            f"{source} takes images of {channels} channels, image files have 1, 3 or 4: give a "
            "data set of arrays (configs/autoencoder/data/arrays.yaml) as --data of "
            "scripts/evaluate_autoencoder.py"
        )
    return MODES[channels]


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
    given = mark_if_beside(load_yaml("--data", arguments.data), arguments.data, arguments.trust)
    return validation_data(given, where), where


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
