"""Change images with a latent diffusion model: into variations, or towards a prompt or class."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ldm.checkpoint import file_sha256
from ldm.cli.app import say
from ldm.cli.images import (
    MOST_ROWS,
    by_size,
    check_conditions,
    check_count,
    common_multiple,
    conditions,
    cut_back,
    image_channels,
    on_cpu,
    padded,
    picture_files,
    read_picture,
    result_files,
)
from ldm.cli.outputs import generate
from ldm.cli.sampling import Job
from ldm.diffusion.guidance import DownsampledL2, ImageGuidance, reduce
from ldm.diffusion.sampling import Denoise, run_sampler
from ldm.errors import UserError
from ldm.samplers.ddim_inversion import DDIMInversion
from ldm.samplers.img2img import first_update, noised
from ldm.samplers.noise import SeededNoise
from ldm.visualization.figure import Cell, Row, save_rows

STRENGTH = {"sdedit": 0.6, "inversion": 1.0}
"""Default of --strength by --method."""
SPACING = "logsnr"
"""Of inversion, which needs short steps."""


def run(arguments: argparse.Namespace) -> None:
    """Read the images, change them, and show both."""
    _check_options(arguments)
    files = picture_files(arguments.images)
    job = Job.load(arguments)
    check_conditions(job, arguments.prompt, arguments.label)
    if arguments.method == "inversion":
        prompt, label = arguments.source_prompt, arguments.source_label
        check_conditions(job, prompt, label, prefix="source-")
    if arguments.guidance != 1 and arguments.prompt is None and arguments.label is None:
        raise UserError(
            f"--guidance {arguments.guidance:g} has no effect: give --prompt or --label"
        )
    channels = image_channels(job)
    for file in [*files.values(), *([arguments.guide_image] if arguments.guide_image else [])]:
        read_picture(file, channels, arguments.frame)  # finds bad ones now
    requests = [file for file in files.values() for _ in range(arguments.per_image)]
    multiple = common_multiple(job, arguments.guide_factor if arguments.guide_image else 1)

    def make(indices: Sequence[int], seeds: Sequence[int]) -> list[Tensor]:
        pictures = [read_picture(requests[i], channels, arguments.frame) for i in indices]
        full = padded(pictures, multiple)
        guides = padded([_guide_picture(job, picture) for picture in pictures], multiple)

        def edit(group: Sequence[int]) -> Tensor:
            images, targets = (torch.stack([part[k] for k in group]) for part in (full, guides))
            return edited(job, images, [seeds[k] for k in group], targets)

        # a batch is of one size before *and* after padding only where the guides fit it
        return cut_back(by_size(full, edit), pictures)

    generate(
        job, make, _records(arguments, files), arguments.per_image, _settings(arguments, multiple)
    )
    if job.processes.first:
        draw(job, files, channels)


def _check_options(arguments: argparse.Namespace) -> None:
    check_count(arguments)
    if arguments.frame and min(arguments.frame) < 1:
        raise UserError(f"--size {arguments.frame[0]} {arguments.frame[1]}: must be positive")
    if arguments.strength is None:
        arguments.strength = STRENGTH[arguments.method]
    if not 0 < arguments.strength <= 1:
        raise UserError(f"--strength {arguments.strength:g}: must be above 0 and at most 1")
    if arguments.method == "inversion":
        _check_inversion(arguments)
    elif arguments.source_prompt is not None or arguments.source_label is not None:
        raise UserError("--source-prompt and --source-label go with --method inversion")
    if (arguments.guide_image is None) != (arguments.guide_scale is None):
        raise UserError("--guide-image and --guide-scale go together: give both or none")
    if arguments.guide_image is None and arguments.guide_factor is not None:
        raise UserError(f"--guide-factor {arguments.guide_factor} goes with --guide-image")
    arguments.guide_factor = 8 if arguments.guide_factor is None else arguments.guide_factor
    if arguments.guide_factor < 1:
        raise UserError(f"--guide-factor {arguments.guide_factor}: must be at least 1")


def _check_inversion(arguments: argparse.Namespace) -> None:
    if arguments.sampler != "ddim" or arguments.eta:
        raise UserError("--method inversion goes with --sampler ddim and --eta 0 only")
    if arguments.per_image > 1:
        raise UserError(
            f"--per-image {arguments.per_image}: inversion is deterministic, all would be the same"
        )
    arguments.spacing = arguments.spacing or SPACING


def _records(
    arguments: argparse.Namespace, files: dict[str, Path]
) -> list[dict[str, str | int | None]]:
    digests = {name: file_sha256(file) for name, file in files.items()}
    wish = {"prompt": arguments.prompt, "label": arguments.label}
    wish = {key: value for key, value in wish.items() if value is not None}
    return [
        {"file": result, "image": file.name, "image_sha256": digests[name]} | wish
        for name, file in files.items()
        for result in result_files(name, arguments.per_image)
    ]


def _settings(arguments: argparse.Namespace, multiple: int) -> dict[str, object]:
    settings = {
        "method": arguments.method,
        "strength": arguments.strength,
        "source_prompt": arguments.source_prompt,
        "source_label": arguments.source_label,
        "size": arguments.frame,
        "sides_multiple_of": multiple,
    }
    if arguments.guide_image is not None:
        settings |= {
            "guide_image_sha256": file_sha256(arguments.guide_image),
            "guide_scale": arguments.guide_scale,
            "guide_factor": arguments.guide_factor,
        }
    return settings


def _guide_picture(job: Job, picture: Tensor) -> Tensor:
    """The picture to resemble, framed like an image (C, H, W); that itself if there is none."""
    file = job.arguments.guide_image
    return picture if file is None else read_picture(file, len(picture), picture.shape[1:])


@torch.no_grad()
def edited(job: Job, images: Tensor, seeds: Sequence[int], guides: Tensor) -> Tensor:
    """Changed images (B, C, H, W) of images and what to resemble, both of that shape."""
    arguments, model, noise = job.arguments, job.model, SeededNoise(seeds)
    wanted = conditions(job, arguments.prompt, arguments.label, len(images))
    denoise = model.conditional_denoise(wanted, arguments.guidance)
    if arguments.guide_image is not None:
        denoise = _guided(job, denoise, guides)
    z = model.encode_mode(images.to(job.device))
    if arguments.method == "inversion":
        begin = first_update(job.sampler, model.schedule, arguments.strength)
        x = inverted(job, z, len(job.sampler.times(model.schedule)) - begin)
    else:
        x, begin = noised(z, job.sampler, model.schedule, noise, arguments.strength)
    z = run_sampler(
        job.sampler, denoise, x, model.schedule, noise, begin=begin, progress=job.progress
    )
    return on_cpu(model.decode(z))


def inverted(job: Job, z: Tensor, updates: int) -> Tensor:
    """The noisy state that becomes the latents z (B, C, h, w) in so many updates."""
    arguments, schedule = job.arguments, job.model.schedule
    source = conditions(job, arguments.source_prompt, arguments.source_label, len(z))
    inversion = DDIMInversion(len(job.sampler.times(schedule)), arguments.spacing)
    steps = inversion(job.model.conditional_denoise(source), z, schedule)
    for step in itertools.islice(steps, updates):
        z = step.x
    return z


def _guided(job: Job, denoise: Denoise, guides: Tensor) -> Denoise:
    factor, model = job.arguments.guide_factor, job.model
    likelihood = DownsampledL2(reduce(guides.to(job.device), factor), factor)
    return ImageGuidance(
        denoise, model.decode, likelihood, job.arguments.guide_scale, model.schedule
    )


def draw(job: Job, files: dict[str, Path], channels: int) -> None:
    """Write edited.png."""
    rows = []
    for name, file in list(files.items())[:MOST_ROWS]:
        results = [job.out / result for result in result_files(name, job.arguments.per_image)]
        image = read_picture(file, channels, job.arguments.frame)
        rows.append(Row(name, [Cell(image[:3]), *(Cell(result) for result in results)]))
    save_rows(rows, job.out / "edited.png")
    say(f"images beside their results: {job.out / 'edited.png'}")
