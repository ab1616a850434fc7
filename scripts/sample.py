"""Sample an unconditional or class-conditional latent diffusion model.

Examples:
  python scripts/sample.py runs/mine --num-images 64
  python scripts/sample.py runs/mine --num-images 16 --labels 3,5 --guidance 2 --sampler unipc
  python scripts/sample.py model.ckpt --config cin256.yaml --size 256 256
  python scripts/sample.py runs/mine --classifier runs/my-classifier --classifier-scale 3
  torchrun --standalone --nproc-per-node 8 scripts/sample.py runs/mine --num-images 50000

Writes OUT/images/*.png, OUT/grid.png and OUT/samples.json, which tells how to make them again. A
call that was killed is repeated as it was: it goes on where it stopped. Image k is that of seed + k
whatever the number of images, processes and images at once. docs/sampling.md says more.

Models with other conditions have scripts of their own: txt2img.py, inpaint.py, superres.py,
layout2img.py, semantic2img.py, retrieve2img.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from _classifier import add_classifier_options, classifier_settings, load_classifier
from _cli import run
from _output import generate
from _sampling import Job, sampling_parser
from torch import Tensor

from ldm.conditioners.class_label import ClassLabel
from ldm.diffusion.classifier import NoisyLatentClassifier
from ldm.diffusion.sampling import Denoise
from ldm.errors import UserError

MOST_COLUMNS = 16
OTHER_SCRIPTS = {
    "tokens": "txt2img.py",
    "masked_image": "inpaint.py",
    "lr_image": "superres.py",
    "box_tokens": "layout2img.py",
    "segmentation": "semantic2img.py",
    "neighbours": "retrieve2img.py",
}
"""By the batch entry that a model needs."""


def main() -> None:
    """Choose the labels and sample."""
    arguments = parser().parse_args()
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


def parser() -> argparse.ArgumentParser:
    """The options, for other scripts too."""
    options = sampling_parser(__doc__)
    options.add_argument(
        "--num-images", type=int, default=64, help="number of images (default: 64)"
    )
    options.add_argument(
        "--labels",
        metavar="uniform|random|LIST",
        help="classes in turn (uniform, default; what published FIDs want), drawn at random, or a "
        "list such as 3,5, also in turn",
    )
    options.add_argument(
        "--npz",
        type=Path,
        metavar="FILE",
        help="write all images, and the labels, to this file, too (format of ADM's evaluation)",
    )
    add_classifier_options(options)
    return options


def class_condition(job: Job) -> ClassLabel | None:
    """The class condition of a model, None if it is unconditional.

    Raises:
        UserError: it has other conditions; the line names the script for them.
    """
    conditioners = list(job.model.conditioners)
    if not conditioners:
        return None
    if len(conditioners) == 1 and isinstance(conditioners[0], ClassLabel):
        return conditioners[0]
    keys = [conditioner.key for conditioner in conditioners]
    scripts = [OTHER_SCRIPTS[key] for key in keys if key in OTHER_SCRIPTS]
    raise UserError(
        f"{job.arguments.source} is conditioned on {', '.join(keys)}: "
        + (f"use scripts/{scripts[0]}" if scripts else "no script knows how to; see docs")
    )


def num_classes(
    condition: ClassLabel | None, classifier: NoisyLatentClassifier | None
) -> int | None:
    """The classes that both know, None if there are none.

    Raises:
        UserError: the classifier is one of label maps.
    """
    known = [] if condition is None else [condition.num_classes]
    if classifier is not None:
        if classifier.label_key != "class_label":
            raise UserError(f"--classifier: it knows {classifier.label_key!r}, not class labels")
        known.append(classifier.network.out_channels)  # type: ignore[arg-type]
    return min(known, default=None)


def choose_labels(policy: str, count: int, num_classes: int, seed: int) -> list[int]:
    """One class id an image: ``uniform`` (in turn), ``random``, or a comma-separated list."""
    if policy == "uniform":
        return [k % num_classes for k in range(count)]
    if policy == "random":
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(num_classes, (count,), generator=generator).tolist()
    try:
        chosen = [int(item) for item in policy.split(",")]
    except ValueError:
        raise UserError(f"--labels {policy}: give uniform, random, or a list such as 3,5") from None
    for label in chosen:
        if not 0 <= label < num_classes:
            raise UserError(f"--labels {policy}: {label} is not within 0 to {num_classes - 1}")
    return [chosen[k % len(chosen)] for k in range(count)]


if __name__ == "__main__":
    run(main)
