"""Sample an unconditional or class-conditional latent diffusion model."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ldm.cli.conditions import choose_labels, class_condition, num_classes
from ldm.cli.model import classifier_settings, load_classifier
from ldm.cli.outputs import generate
from ldm.cli.sampling import Job
from ldm.diffusion.sampling import Denoise
from ldm.errors import UserError

MOST_COLUMNS = 16


def run(arguments: argparse.Namespace) -> None:
    """Choose the labels and sample."""
    if arguments.num_images < 1:
        raise UserError(f"--num-images {arguments.num_images}: must be at least 1")
    job = Job.load(arguments)
    condition = class_condition(job)
    classifier = load_classifier(arguments, job.model)
    classes = num_classes(condition, classifier)
    if classes is None:
        if arguments.labels is not None:
            raise UserError(
                f"--labels {arguments.labels} has no effect: {arguments.source} has no classes"
            )
        records: list[dict[str, int]] = [{}] * arguments.num_images
        generate(job, lambda _, seeds: job.images({}, seeds), records, npz=arguments.npz)
        return
    labels = choose_labels(
        arguments.labels or "uniform", arguments.num_images, classes, arguments.seed
    )

    def make(indices: Sequence[int], seeds: Sequence[int]) -> Tensor:
        ids = torch.tensor([labels[k] for k in indices])
        batch = {} if condition is None else {condition.key: ids}
        guide: Callable[[Denoise], Denoise] | None = None
        if classifier is not None:
            guide = classifier.guide(ids.to(job.device), arguments.classifier_scale)
        return job.images(batch, seeds, guide=guide)

    in_turn = arguments.labels in (None, "uniform") and classes <= MOST_COLUMNS
    generate(
        job,
        make,
        [{"label": label} for label in labels],
        columns=classes if in_turn else None,  # a column a class
        settings=classifier_settings(arguments),
        npz=arguments.npz,
    )
