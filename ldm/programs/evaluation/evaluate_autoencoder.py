"""Measure a first stage: how well it reconstructs, and whether its latents suit stage 2."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ldm.cli.app import say
from ldm.cli.data import (
    Data,
    check_images,
    describe_data,
    describe_preprocessing,
    feature_network,
    image_batches,
    load_data,
    load_first_stage,
    some_images,
    write_report,
)
from ldm.cli.model import locate_model, subject
from ldm.errors import UserError
from ldm.evaluation.evaluator import (
    FAKE,
    FEWEST_IMAGES,
    REAL,
    numbers_of,
    output_of,
    requests_of,
)
from ldm.evaluation.extraction import Extraction
from ldm.evaluation.first_stage import FirstStageStatistics, assess
from ldm.evaluation.latent_statistics import draw, kl_map
from ldm.evaluation.networks.base import Network
from ldm.evaluation.protocol import EvaluationProtocol, Measure
from ldm.evaluation.report import INCEPTION, EvaluationReport
from ldm.locks import sole_writer
from ldm.losses.perceptual import SMALLEST_SIDE, lpips
from ldm.visualization.images import as_rgb, difference, save_sheet, three_channels

SHEET_IMAGES = 8
GAIN = 4
PROTOCOL = EvaluationProtocol(
    "reconstructions",
    [Measure("frechet"), Measure("inception_score"), Measure("precision_recall")],
    small_samples=None,
)
SEED = 0
"""Of the choice of images for precision and recall."""


def run(arguments: argparse.Namespace) -> None:
    """Read model and data, measure, judge, and write the report."""
    source = locate_model(arguments)
    model, config = load_first_stage(source, arguments)
    dataset, where = load_data(arguments, config, model)
    images = some_images(dataset, arguments.num, where)
    check_images(images[0]["image"], model, arguments, where)
    networks = Networks.load(arguments, len(images))  # type: ignore[arg-type]
    networks.check(images[0]["image"])
    statistics, sheet = _measure(arguments, model, images, networks)

    out: Path = arguments.out
    report = EvaluationReport(f"reconstruction by {arguments.source}")
    about = {
        "num_real": statistics.images,
        "num_fake": statistics.images,
        "resolution": tuple(images[0]["image"].shape[-2:]),
        "data": describe_data(dataset, where),
        "preprocessing": describe_preprocessing(dataset),
    }
    statistics.add_to(report, about)
    networks.add_to(report, about)
    readiness = assess(statistics.facts(config.get("scale_factor")))
    report.details["subject"] = subject(source, arguments)
    report.details["readiness"] = asdict(readiness)
    with sole_writer(out, first=True):  # sheet and numbers of one call
        save_sheet(sheet, len(sheet) // 3, out / "reconstructions.png")
        write_report(report, out / "metrics.json")
    say(f"originals, reconstructions, difference x {GAIN}: {out / 'reconstructions.png'}")
    say(f"\nverdict: {readiness.verdict}")
    for reason in readiness.reasons:
        say(f"  - {reason}")


# -- the networks that compare ---------------------------------------------------------------


class FeatureSets:
    """Features of images and of their reconstructions, and what they say.

    Args:
        network: in eval mode, on ``device``.
        count: images that will be seen.
        device: where the network is.

    Raises:
        UserError: there are too few images.
    """

    def __init__(self, network: Network, count: int, device: str) -> None:
        if count < FEWEST_IMAGES:
            raise UserError(f"--features: {count} images, at least {FEWEST_IMAGES} are needed")
        self._network, self._networks = network, {network.name: network}
        protocol, _ = PROTOCOL.with_network(network.name, network.outputs)
        self._measures = [m for m in protocol.measures if m.all_params.get("splits", 0) <= count]
        protocol = replace(protocol, measures=self._measures)
        self._sides = {}
        for side in (REAL, FAKE):
            requests = requests_of(protocol, self._networks, side, count)
            self._sides[side] = Extraction(self._networks, requests, count, SEED, device)

    def add(self, real: Tensor, fake: Tensor) -> None:
        """Take images (B, 3, H, W) in [-1, 1] and their reconstructions."""
        self._sides[REAL].add_images(real)
        self._sides[FAKE].add_images(fake)

    def add_to(self, report: EvaluationReport, about: dict[str, Any], note: str) -> None:
        """Append rFID (rFD of other features), R-IS, precision and recall."""
        real, fake = (self._sides[side].result() for side in (REAL, FAKE))
        names = {"fd": "fid"} if self._network.name == INCEPTION else {}
        names["inception_score"] = "is"
        for measure in self._measures:
            output = output_of(measure, self._networks)
            numbers, x, y = numbers_of(measure, real.get(output), fake.get(output), SEED)
            shared = {**about, "num_real": x.count or y.count, "num_fake": y.count}
            for name, value, std, words in numbers:
                text = "; ".join(filter(None, [words, measure.note, note]))
                name = f"r{names.get(name, name)}"
                report.add(name, value, std=std, note=text, network=self._network, **shared)


@dataclass(frozen=True)
class Networks:
    """LPIPS and a feature network, as far as they were asked for."""

    distance: Any
    features: FeatureSets | None
    choice: str | list[int] | None

    @staticmethod
    def load(arguments: argparse.Namespace, count: int) -> Networks:
        """Load what the options ask for; ``count`` images will be seen."""
        choice = _rgb(arguments.rgb)
        distance = None
        if arguments.lpips or arguments.vgg_weights:
            distance = lpips(arguments.vgg_weights).to(arguments.device).eval()
        network = feature_network(arguments)
        if choice is not None and distance is None and network is None:
            raise UserError("--rgb goes with --lpips or --features")
        features = None if network is None else FeatureSets(network, count, arguments.device)
        return Networks(distance, features, choice)

    def check(self, image: Tensor) -> None:
        """Refuse images (C, H, W) that they cannot see."""
        if self.distance is not None and min(image.shape[1:]) < SMALLEST_SIDE:
            raise UserError(f"--lpips needs images of {SMALLEST_SIDE} pixels or more on a side")
        if self.distance is not None or self.features is not None:
            try:
                three_channels(image[None], self.choice)
            except ValueError as error:
                raise UserError(
                    f"--lpips and --features see three channels, the images have {len(image)}: "
                    "give --rgb repeat (of one channel), --rgb 3,2,1 (three of them), or leave "
                    "the metrics out"
                ) from error

    @property
    def note(self) -> str:
        """What must be said of the numbers."""
        if self.choice is None:
            return ""
        shown = "channel repeated" if self.choice == "repeat" else f"channels {self.choice}"
        return f"{shown} as RGB"

    def lpips(self, x: Tensor, y: Tensor) -> Tensor:
        """Distances of images (B, C, H, W)."""
        result: Tensor = self.distance(
            three_channels(x, self.choice), three_channels(y, self.choice)
        )
        return result

    def compare(self, x: Tensor, y: Tensor) -> None:
        """Add images and their reconstructions."""
        if self.features is not None:
            self.features.add(*(three_channels(images, self.choice) for images in (x, y)))

    def add_to(self, report: EvaluationReport, about: dict[str, Any]) -> None:
        """Append their numbers, or say that there are none."""
        if self.features is not None:
            self.features.add_to(report, about, self.note)
        else:
            report.remarks.append("rfid and ris were not computed: give --features inception")
        if self.distance is None:
            report.remarks.append("lpips (PSIM) was not computed: give --lpips")


def _rgb(text: str | None) -> str | list[int] | None:
    if text is None or text == "repeat":
        return text
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--rgb {text}: give repeat, or three indices such as 3,2,1") from None


# -- the journey of an image -----------------------------------------------------------------


@torch.no_grad()
def _measure(
    arguments: argparse.Namespace, model: Any, images: Data, networks: Networks
) -> tuple[FirstStageStatistics, Tensor]:
    """The numbers, and the pictures of the sheet: originals, reconstructions, differences."""
    quantizer = getattr(model, "quantize", None)
    statistics = FirstStageStatistics(
        model.downsampling_factor,
        model.latent_channels,
        None if quantizer is None else quantizer.num_codes,
        None if networks.distance is None else networks.lpips,
        f"; {networks.note}" if networks.note else "",
    )
    sheet: list[Tensor] = []
    total = len(images)  # type: ignore[arg-type]
    with tqdm(total=total, unit="image", desc="reconstructing", dynamic_ncols=True) as bar:
        for batch in image_batches(images, arguments.batch_size, arguments.workers):
            x = batch.to(arguments.device)
            posterior = model.encode(x)
            if quantizer is None:
                decoded, indices = model.decode(posterior.mode()), None
            else:
                quantized = quantizer(posterior.mode())
                decoded, indices = model.decode(quantized.z, quantize=False), quantized.indices
            seeds = range(statistics.images, statistics.images + len(x))
            z = draw(posterior, seeds)
            y = statistics.update(x, decoded, z, kl_map(posterior), indices)
            networks.compare(x, y)
            if len(sheet) < SHEET_IMAGES:
                sheet += torch.stack([as_rgb(v) for v in (x, y, difference(x, y, GAIN))], 1).cpu()
            bar.update(len(x))
    return statistics, torch.stack(sheet[:SHEET_IMAGES], 1).flatten(0, 1)
