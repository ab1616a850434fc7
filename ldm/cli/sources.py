"""The two sides that evaluate.py compares: what the command line calls them, and what is meant."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from ldm.cli.conditions import choose_labels, class_condition, text_condition
from ldm.cli.options.model import is_model
from ldm.cli.sampling import Batch, SamplingSession
from ldm.config import to_yaml
from ldm.errors import UserError
from ldm.evaluation.networks.resizing import to_uint8
from ldm.evaluation.protocol import EvaluationProtocol
from ldm.evaluation.sources.base import ImageSource, Item, ReadSource, SourceInfo, describe_labels
from ldm.evaluation.sources.dataset import ROUNDING, TRUNCATION, data_split
from ldm.evaluation.sources.open import open_source
from ldm.evaluation.sources.record import RECORD, find_run, has_record, read_record
from ldm.evaluation.sources.statistics import StoredStatistics
from ldm.files import shown

Source = ImageSource | StoredStatistics


def open_fake(arguments: argparse.Namespace, protocol: EvaluationProtocol | None) -> Source:
    """The images that are measured.

    Raises:
        UserError: there are none, or the model needs conditions that this script cannot give.
    """
    if is_model(arguments):
        return sampled(arguments, protocol)
    return open_source(
        arguments.source,
        skip_corrupt=arguments.skip_corrupt,
        num=arguments.num,
        cache=arguments.cache,
        trust=arguments.trust,
    )


def open_real(arguments: argparse.Namespace, protocol: EvaluationProtocol | None) -> Source:
    """The images that they are compared with.

    Raises:
        UserError: nobody says which, or there are none.
    """
    where = arguments.real or _own_run(arguments, protocol)
    split = arguments.split or _reference(protocol)
    folder = Path(where)
    if folder.is_dir() and (folder / "config.yaml").is_file():
        where = f"{folder / 'config.yaml'}#{split}"
    elif arguments.split is not None:
        raise UserError(f"--split {arguments.split}: goes with a run, {where} is none")
    num = arguments.num_real
    if num is None and protocol is not None:
        num = protocol.num_real
    if num is not None and arguments.num_real is None:
        num = _at_most(num, where, arguments)
    return open_source(
        where,
        skip_corrupt=arguments.skip_corrupt,
        num=num,
        cache=arguments.cache,
        trust=arguments.trust,
    )


def _at_most(num: int, where: str, arguments: argparse.Namespace) -> int | None:
    """The number that a protocol wants, None if there are fewer: the report says so."""
    whole = open_source(
        where, skip_corrupt=arguments.skip_corrupt, cache=arguments.cache, trust=arguments.trust
    )
    if isinstance(whole, StoredStatistics):
        return None
    return num if len(whole) >= num else None


def _reference(protocol: EvaluationProtocol | None) -> str:
    return "train" if protocol is not None and protocol.reference == "train" else "validation"


def _own_run(arguments: argparse.Namespace, protocol: EvaluationProtocol | None) -> str:
    """The run that made the samples."""
    if protocol is not None and protocol.reference == "file":
        raise UserError(f"give --real: {protocol.name} compares with a file: {protocol.about}")
    if is_model(arguments):
        if not (Path(arguments.source) / "config.yaml").is_file():
            raise UserError(f"give --real: {arguments.source} names no data of its own")
        return str(arguments.source)
    folder = Path(os.path.expanduser(arguments.source))
    if not folder.is_dir() or not has_record(folder):
        raise UserError(
            f"give --real: {shown(arguments.source)} has no {RECORD} that names a run, whose data "
            "would be the real images"
        )
    record = read_record(folder)
    run = find_run(folder, record)
    if run is None:
        named = shown(str(record.settings.get("run")))
        raise UserError(
            f"give --real: {shown(folder / RECORD)} names {named}, which is no run folder here "
            "that has data of its own, nor does one lie above"
        )
    return str(run)


# -- a model that is sampled on the fly -------------------------------------------------------


class ModelSource(ReadSource):
    """Images that a model makes when they are asked for; none is written.

    Image k is that of seed + k, as the sampling scripts make it. The hash is that of the settings,
    weights and config of the model included.

    Args:
        job: the model, and how to sample it.
        count: images.
        conditions: makes the batch for the images with these indices.
        labels: class of each image, None without classes.
        captions: of each image, None without captions.
    """

    def __init__(
        self,
        job: SamplingSession,
        count: int,
        conditions: Callable[[Sequence[int]], Batch],
        labels: list[int] | None = None,
        captions: list[str] | None = None,
    ) -> None:
        super().__init__(job.options.source, count, skip_corrupt=False)
        self._job, self._conditions = job, conditions
        self._labels, self._captions = labels, captions

    def _items(self, rank: int, processes: int) -> Iterator[Item]:
        mine, step = range(rank, len(self), processes), self._job.options.batch_size
        for start in range(0, len(mine), step):
            indices = list(mine[start : start + step])
            seeds = [self._job.options.seed + k for k in indices]
            images = self._job.images(self._conditions(indices), seeds)
            for k, image in zip(indices, images, strict=True):
                if not image.isfinite().all():
                    raise UserError(f"image {k} holds values that are not finite")
                label = None if self._labels is None else self._labels[k]
                caption = None if self._captions is None else self._captions[k]
                yield Item(k, to_uint8(image, self._job.options.bytes), label, caption)

    def _info(self) -> SourceInfo:
        settings = self._job.settings()
        height, width = self._job.size()
        decisive = {
            key: value for key, value in settings.items() if key not in ("run", "checkpoint")
        }
        model = to_yaml(self._job.config.model, resolve=True)
        what = [decisive, len(self), [height, width], self._labels, self._captions, model]
        about = {
            "formats": {"never written": len(self)},
            "sizes": {"height": [height, height], "width": [width, width]},
            "dtype": "uint8",
            "rounding": TRUNCATION if self._job.options.bytes == "truncate" else ROUNDING,
            "selection": f"all {len(self)}",
            "labels": describe_labels(self._labels),
            "captions": self._captions is not None,
            "settings": settings,
        }
        digest = hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()
        return SourceInfo("model", self.where, len(self), digest, about)


def sampled(arguments: argparse.Namespace, protocol: EvaluationProtocol | None) -> ModelSource:
    """The source of the images of a model.

    Raises:
        UserError: nobody says how many images, or the model needs other conditions.
    """
    count = arguments.num or (None if protocol is None else protocol.num_fake)
    if count is None:
        raise UserError(f"give --num: how many images {arguments.source} is to make")
    if count < 1:
        raise UserError(f"--num {count}: must be at least 1")
    job = SamplingSession.load(arguments)
    if any(getattr(part, "tokenizer", None) for part in job.model.conditioners):
        return _from_captions(job, count)
    condition = class_condition(job)
    if condition is None:
        if arguments.labels is not None:
            raise UserError(f"--labels {arguments.labels}: {arguments.source} has no classes")
        return ModelSource(job, count, lambda _: {})
    policy = arguments.labels or "uniform"
    labels = choose_labels(policy, count, condition.num_classes, arguments.seed)
    key = condition.key
    return ModelSource(
        job, count, lambda indices: {key: torch.tensor([labels[k] for k in indices])}, labels
    )


def _from_captions(job: SamplingSession, count: int) -> ModelSource:
    """Images of the captions of the first validation images."""
    text: Any = text_condition(job)
    if job.options.labels is not None:
        raise UserError(f"--labels: {job.options.source} is conditioned on text")
    source = job.options.source
    if "data" not in job.config:
        raise UserError(f"{source} has no captions of its own: sample it with scripts/txt2img.py")
    dataset = data_split(job.config, "validation", source)
    if count > len(dataset):
        raise UserError(
            f"--num {count}: the validation data of {source} have {len(dataset)} images"
        )
    if "caption" not in dataset[0]:
        raise UserError(f"the validation data of {source} have no captions")
    captions = [str(dataset[k]["caption"]) for k in range(count)]
    return ModelSource(
        job,
        count,
        lambda indices: {text.key: text.tokenizer([captions[k] for k in indices])},
        captions=captions,
    )
