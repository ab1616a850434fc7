"""Sample an unconditional or class-conditional latent diffusion model."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ldm.cli.conditions import choose_labels, class_condition, num_classes
from ldm.cli.model import load_classifier
from ldm.cli.outputs import generate
from ldm.cli.sampling import SamplingSession
from ldm.diffusion.sampling import Denoise
from ldm.errors import UserError

MOST_COLUMNS = 16


def run(options: argparse.Namespace) -> None:
    """Choose the labels and sample."""
    session = SamplingSession.load(options)
    condition = class_condition(session)
    classifier, guidance = load_classifier(options, session.model)
    classes = num_classes(condition, classifier)
    if classes is None:
        if options.labels is not None:
            raise UserError(
                f"--labels {options.labels} has no effect: {options.source} has no classes"
            )
        records: list[dict[str, int]] = [{}] * options.num_images
        generate(session, lambda _, seeds: session.images({}, seeds), records, npz=options.npz)
        return
    labels = choose_labels(options.labels or "uniform", options.num_images, classes, options.seed)

    def make(indices: Sequence[int], seeds: Sequence[int]) -> Tensor:
        ids = torch.tensor([labels[k] for k in indices])
        batch = {} if condition is None else {condition.key: ids}
        guide: Callable[[Denoise], Denoise] | None = None
        if classifier is not None:
            guide = classifier.guide(ids.to(session.device), options.classifier_scale)
        return session.images(batch, seeds, guide=guide)

    in_turn = options.labels in (None, "uniform") and classes <= MOST_COLUMNS
    generate(
        session,
        make,
        [{"label": label} for label in labels],
        columns=classes if in_turn else None,  # a column a class
        settings=guidance,
        npz=options.npz,
    )
