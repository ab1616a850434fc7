"""Enlarge images with a super-resolution model.

Examples:
  python scripts/superres.py runs/superres small.png
  python scripts/superres.py runs/superres thumbnails/ --per-image 2 --steps 100 --eta 1
  python scripts/superres.py runs/superres photo.png --tile 64 --tile-overlap 16 --decode-tile 64

The model (configs/super_resolution) is shown the image at the size of its latents, so results are
larger by the factor f of its first stage: 4 in the published ones. Images may have any size; large
ones are best denoised in tiles of the size of the training. Writes OUT/images/NAME.png
(NAME_0.png, ... with --per-image), OUT/enlarged.png (a row per image: bicubic, then the results),
OUT/grid.png and OUT/samples.json. docs/image-to-image.md says more.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from _cli import run, say
from _output import generate
from _pictures import (
    MOST_ROWS,
    by_size,
    check_conditions,
    check_count,
    conditions,
    cut_back,
    denoiser_factor,
    padded,
    picture_files,
    read_picture,
    result_files,
)
from _sampling import Job, sampling_parser
from _sheet import Cell, Row, save_rows
from torch import Tensor
from torchvision.transforms.v2.functional import InterpolationMode, resize

from ldm.checkpoint import file_sha256
from ldm.conditioners.spatial import ConcatImage
from ldm.errors import UserError

INPUT = "lr_image"


def main() -> None:
    """Read the images, enlarge them, and show both."""
    arguments = parser().parse_args()
    check_count(arguments)
    files = picture_files(arguments.images)
    job = Job.load(arguments)
    small = _small_image(job)
    check_conditions(job, arguments.prompt, arguments.label, given=(INPUT,))
    for file in files.values():
        read_picture(file, small.channels)  # finds bad ones now
    factor = job.model.autoencoder.downsampling_factor
    requests = [file for file in files.values() for _ in range(arguments.per_image)]

    def make(indices: Sequence[int], seeds: Sequence[int]) -> list[Tensor]:
        pictures = [read_picture(requests[k], small.channels) for k in indices]
        full = padded(pictures, denoiser_factor(job))

        def enlarge(group: Sequence[int]) -> Tensor:
            images = torch.stack([full[k] for k in group])
            batch = conditions(job, arguments.prompt, arguments.label, len(group), (INPUT,))
            size = (images.shape[2] * factor, images.shape[3] * factor)
            return job.images(batch | {INPUT: images}, [seeds[k] for k in group], size=size)

        return cut_back(by_size(full, enlarge), pictures, factor)

    generate(job, make, _records(arguments, files), arguments.per_image, {"factor": factor})
    if job.processes.first:
        _draw(job, files, factor)


def parser() -> argparse.ArgumentParser:
    """The options, for other scripts too."""
    options = sampling_parser(__doc__, size=False)
    options.add_argument(
        "images", nargs="+", type=Path, metavar="IMAGE_OR_FOLDER", help="what to enlarge"
    )
    options.add_argument("--prompt", help="what they show, for models that also take text")
    options.add_argument("--label", type=int, help="what they show, for models with classes")
    options.add_argument("--per-image", type=int, default=1, help="results an image (default: 1)")
    return options


def _small_image(job: Job) -> ConcatImage:
    """The conditioner that takes the image to be enlarged.

    Raises:
        UserError: the model has none.
    """
    for part in job.model.conditioners:
        if isinstance(part, ConcatImage) and part.key == INPUT:
            return part
    raise UserError(
        f"{job.arguments.source} is no super-resolution model: it does not take {INPUT!r}; "
        "docs/sampling.md names the script for each kind of model"
    )


def _records(arguments: argparse.Namespace, files: dict[str, Path]) -> list[dict[str, object]]:
    return [
        {"file": result, "image": file.name, "image_sha256": digest}
        for name, file in files.items()
        for digest in [file_sha256(file)]
        for result in result_files(name, arguments.per_image)
    ]


def _draw(job: Job, files: dict[str, Path], factor: int) -> None:
    rows = []
    for name, file in list(files.items())[:MOST_ROWS]:
        image = read_picture(file, 3)
        size = [factor * side for side in image.shape[1:]]
        bicubic = resize(image, size, InterpolationMode.BICUBIC, antialias=True)
        made = [Cell(job.out / result) for result in result_files(name, job.arguments.per_image)]
        rows.append(Row(name, [Cell(bicubic, "bicubic"), *made]))
    sheet = job.out / "enlarged.png"
    save_rows(rows, sheet)
    say(f"bicubic enlargements and results {sheet}")


if __name__ == "__main__":
    run(main)
