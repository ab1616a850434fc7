"""Measure whether a model does what it is conditioned on: samples for held-out conditions."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor
from torch.utils.data import default_collate
from torchvision.io import ImageReadMode

from ldm.cli.app import say
from ldm.cli.data import (
    describe_data,
    describe_preprocessing,
    feature_network,
    image_batches,
    some_images,
    validation_data,
    write_report,
)
from ldm.cli.images import filled_around
from ldm.cli.options.sampling import check_guidance
from ldm.cli.outputs import generate
from ldm.cli.retrieval import Clip
from ldm.cli.sampling import SamplingSession
from ldm.config import instantiate
from ldm.errors import UserError
from ldm.evaluation.metrics.reconstruction import Distance
from ldm.evaluation.report import EvaluationReport
from ldm.evaluation.tasks import BATCH, TASKS, Evaluation, Item
from ldm.losses.perceptual import SMALLEST_SIDE, lpips
from ldm.visualization.conditions import item_cells
from ldm.visualization.figure import Cell, Row, save_rows
from ldm.visualization.images import read_png

SHEET_ITEMS, ACROSS = 12, 9
"""Items in task.png, evenly from all, and pictures in a row."""


def run(arguments: argparse.Namespace) -> None:
    """Sample for the conditions of held-out items, measure, write the report and the sheet."""
    guided = arguments.guidance is not None
    arguments.guidance = arguments.guidance if guided else 1.0
    job = SamplingSession.load(arguments)
    if not guided:
        arguments.guidance = float(
            OmegaConf.select(job.config, "task.params.preview_guidance", default=1.0)
        )
        check_guidance(arguments)
    keys = frozenset(conditioner.key for conditioner in job.model.conditioners)
    if keys not in TASKS:
        raise UserError(
            f"{arguments.source} is conditioned on {', '.join(sorted(keys))}: no measure knows how "
            "to; scripts/evaluate.py measures any samples by features"
        )
    where = f"validation data of {arguments.source}"
    dataset = validation_data(job.config, where)
    chosen = some_images(dataset, min(arguments.num, len(dataset)), where)  # type: ignore[arg-type]
    items = [chosen[k] for k in range(len(chosen))]  # type: ignore[arg-type]
    features = arguments.features or arguments.inception_weights
    TASKS[keys].check(items[0], arguments.source, features)
    distance = _lpips(arguments, keys, items[0])
    network, baseline = feature_network(arguments), _load_baseline(arguments, keys)
    samples = _sample(job, items, keys)
    if not job.processes.first:
        return
    evaluation = Evaluation(
        items=items,
        samples=samples,
        validation=dataset,
        train=lambda most: _training_images(job, most),
        reconstruct=lambda images: job.model.decode(job.model.encode_mode(images)),
        network=network,
        device=job.device,
        lpips=distance,
        embed=_clip(arguments) if "neighbours" in keys else None,
        baseline={} if baseline is None else _fill(baseline, items),
        report=EvaluationReport(f"{', '.join(sorted(keys)) or 'no condition'}: {job.out}"),
        about={
            "resolution": samples.shape[-2:],
            "data": describe_data(dataset, where),
            "preprocessing": describe_preprocessing(dataset),
        },
    )
    TASKS[keys].measure(evaluation)
    settings = job.settings()
    evaluation.report.details["settings"] = settings
    sampler = settings["sampler"]
    evaluation.report.remarks.append(
        f"{sampler['name']}, {sampler.get('steps', 'all')} steps, guidance {arguments.guidance:g}"
    )
    write_report(evaluation.report, job.out / "task.json")
    _draw(evaluation, keys, job.out / "task.png")


def _training_images(job: SamplingSession, most: int) -> Tensor:
    """At most so many images (N, C, H, W), evenly from all that the model was trained on."""
    dataset: Any = instantiate(job.config.data.params.train, "data.params.train")
    chosen = some_images(dataset, min(most, len(dataset)), "training data")
    return torch.cat(list(image_batches(chosen, BATCH)))


def _sample(job: SamplingSession, items: Sequence[Item], keys: frozenset[str]) -> Tensor:
    """One sample per item, read back from the files (N, C, H, W)."""

    def make(indices: Sequence[int], seeds: Sequence[int]) -> Tensor:
        return job.images(_batch([items[k] for k in indices], keys), seeds)

    records = [{"item": k} | _words(item) for k, item in enumerate(items)]
    generate(job, make, records)
    files = [job.out / f"images/{k:05d}.png" for k in range(len(items))]
    channels = items[0]["image"].shape[0]
    mode = ImageReadMode.GRAY if channels == 1 else ImageReadMode.RGB
    return torch.stack([read_png(file, mode).float() / 127.5 - 1 for file in files])


def _batch(items: Sequence[Item], keys: frozenset[str]) -> dict[str, Any]:
    absent = sorted(keys - items[0].keys())
    if absent:
        raise UserError(
            f"the model is conditioned on {', '.join(absent)}, which the validation data lack"
        )
    batch: dict[str, Any] = default_collate([{key: item[key] for key in keys} for item in items])
    return batch


def _words(item: Item) -> dict[str, Any]:
    words = {"prompt": item.get("caption"), "label": item.get("class_label")}
    return {name: value for name, value in words.items() if value is not None}


def _clip(arguments: argparse.Namespace) -> Any:
    return Clip(arguments.clip, arguments.clip_weights, torch.device(arguments.device)).embed_images


def _lpips(arguments: argparse.Namespace, keys: frozenset[str], item: Item) -> Distance | None:
    """The distance of --lpips.

    Raises:
        UserError: the task has no pairs, or the images are such that it cannot see them.
    """
    if not (arguments.lpips or arguments.vgg_weights):
        return None
    if not keys & {"lr_image", "mask"}:
        raise UserError("--lpips goes with models for super-resolution and inpainting")
    channels, *sides = item["image"].shape
    if channels != 3 or min(sides) < SMALLEST_SIDE:
        raise UserError(
            f"--lpips needs images of three channels and {SMALLEST_SIDE} pixels or more on a side"
        )
    distance: Distance = lpips(arguments.vgg_weights).to(arguments.device).eval()
    return distance


def _load_baseline(arguments: argparse.Namespace, keys: frozenset[str]) -> SamplingSession | None:
    """The model of --baseline, to be sampled as ``scripts/inpaint.py --eta 1`` does."""
    if arguments.baseline is None:
        return None
    if "mask" not in keys:
        raise UserError("--baseline goes with a model for inpainting")
    changes = {
        **{"source": arguments.baseline, "checkpoint": None, "config": None},
        **{"sampler": "ddim", "eta": 1.0, "spacing": None, "guidance": 1.0},
        "guidance_rescale": 0.0,
        **{"prompt": None, "label": None},
    }
    job = SamplingSession.load(argparse.Namespace(**{**vars(arguments), **changes}))
    if len(job.model.conditioners):
        raise UserError(f"--baseline {arguments.baseline}: must be a model without conditions")
    return job


def _fill(job: SamplingSession, items: Sequence[Item]) -> dict[str, Tensor]:
    """What a model without conditions makes of the holes."""
    say(f"filling the holes with {job.options.source}")
    size, seed = job.options.batch_size, job.options.seed
    made = []
    for start in range(0, len(items), size):
        part = items[start : start + size]
        images, masks = (torch.stack([item[key] for item in part]) for key in ("image", "mask"))
        seeds = [seed + start + k for k in range(len(part))]
        made.append(filled_around(job, images, masks, seeds))
    return {"unconditional": torch.cat(made)}


def _draw(evaluation: Evaluation, keys: frozenset[str], out: Path) -> None:
    """Write task.png."""
    shown = keys | {"image"} | ({"caption"} if "tokens" in keys else set())
    total, count = len(evaluation.items), min(SHEET_ITEMS, len(evaluation.items))
    places = [k * total // count for k in range(count)]  # folders are sorted by class
    chosen = [
        {key: evaluation.items[k][key] for key in evaluation.items[k] if key in shown}
        for k in places
    ]
    pictures = []
    for k, cells in zip(places, item_cells(chosen, evaluation.validation), strict=True):
        extra = [Cell(found[k].image, name) for name, found in evaluation.extra_cells.items()]
        pictures.append([*cells, *extra, Cell(evaluation.samples[k], "sample")])
    across = max(1, ACROSS // len(pictures[0]))
    rows = [
        Row("", [cell for cells in pictures[k : k + across] for cell in cells])
        for k in range(0, len(pictures), across)
    ]
    save_rows(rows, out)
    say(f"items, conditions and samples: {out}")
