"""Sample an unconditional or class-conditional latent diffusion model.

Examples:
  python scripts/sample.py runs/mine --num 64
  python scripts/sample.py runs/mine --num 1000 --labels uniform --guidance 2
  python scripts/sample.py runs/mine --num 16 --labels 3,5

Writes OUT/images/*.png, OUT/grid.png and OUT/samples.json. Text models: scripts/txt2img.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from _cli import run
from _sampling import Batch, Job, generate, parser

from ldm.conditioners.class_label import ClassLabel
from ldm.errors import UserError

MOST_COLUMNS = 16


def main() -> None:
    """Choose the labels and sample."""
    options = parser(__doc__)
    options.add_argument("--num", type=int, default=64, help="number of images (default: 64)")
    options.add_argument(
        "--labels",
        default="uniform",
        help="classes in turn (uniform, default), drawn at random, or a list such as 3,5",
    )
    arguments = options.parse_args()
    if arguments.num < 1:
        raise UserError(f"--num {arguments.num}: must be at least 1")
    job = Job.load(arguments)
    conditioners = list(job.model.conditioners)
    if not conditioners:
        generate(job, arguments.num, lambda _: {}, [{}] * arguments.num)
        return
    if len(conditioners) > 1 or not isinstance(conditioners[0], ClassLabel):
        kinds = ", ".join(type(conditioner).__name__ for conditioner in conditioners)
        raise UserError(
            f"{arguments.run} is conditioned on {kinds}; text models: scripts/txt2img.py"
        )
    conditioner = conditioners[0]
    labels = choose_labels(arguments.labels, arguments.num, conditioner.num_classes, arguments.seed)

    def conditions(indices: Sequence[int]) -> Batch:
        return {conditioner.key: torch.tensor([labels[k] for k in indices])}

    in_turn = arguments.labels == "uniform" and conditioner.num_classes <= MOST_COLUMNS
    columns = conditioner.num_classes if in_turn else None  # a column a class
    records = [{"label": label} for label in labels]
    generate(job, arguments.num, conditions, records, columns)


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
