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
from ldm.cli.sampling import SamplingSession
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


def run(options: argparse.Namespace) -> None:
    """Read the images, change them, and show both."""
    _check_options(options)
    files = picture_files(options.images)
    session = SamplingSession.load(options)
    check_conditions(session, options.prompt, options.label)
    if options.method == "inversion":
        prompt, label = options.source_prompt, options.source_label
        check_conditions(session, prompt, label, prefix="source-")
    if options.guidance != 1 and options.prompt is None and options.label is None:
        raise UserError(f"--guidance {options.guidance:g} has no effect: give --prompt or --label")
    channels = image_channels(session)
    for file in [*files.values(), *([options.guide_image] if options.guide_image else [])]:
        read_picture(file, channels, options.frame)  # finds bad ones now
    requests = [file for file in files.values() for _ in range(options.per_image)]
    multiple = common_multiple(session, options.guide_factor if options.guide_image else 1)

    def make(indices: Sequence[int], seeds: Sequence[int]) -> list[Tensor]:
        pictures = [read_picture(requests[i], channels, options.frame) for i in indices]
        full = padded(pictures, multiple)
        guides = padded([_guide_picture(session, picture) for picture in pictures], multiple)

        def edit(group: Sequence[int]) -> Tensor:
            images, targets = (torch.stack([part[k] for k in group]) for part in (full, guides))
            return edited(session, images, [seeds[k] for k in group], targets)

        # a batch is of one size before *and* after padding only where the guides fit it
        return cut_back(by_size(full, edit), pictures)

    generate(
        session, make, _records(options, files), options.per_image, _settings(options, multiple)
    )
    if session.processes.first:
        draw(session, files, channels)


def _check_options(options: argparse.Namespace) -> None:
    check_count(options)
    if options.frame and min(options.frame) < 1:
        raise UserError(f"--size {options.frame[0]} {options.frame[1]}: must be positive")
    if options.strength is None:
        options.strength = STRENGTH[options.method]
    if not 0 < options.strength <= 1:
        raise UserError(f"--strength {options.strength:g}: must be above 0 and at most 1")
    if options.method == "inversion":
        _check_inversion(options)
    elif options.source_prompt is not None or options.source_label is not None:
        raise UserError("--source-prompt and --source-label go with --method inversion")
    if (options.guide_image is None) != (options.guide_scale is None):
        raise UserError("--guide-image and --guide-scale go together: give both or none")
    if options.guide_image is None and options.guide_factor is not None:
        raise UserError(f"--guide-factor {options.guide_factor} goes with --guide-image")
    options.guide_factor = 8 if options.guide_factor is None else options.guide_factor
    if options.guide_factor < 1:
        raise UserError(f"--guide-factor {options.guide_factor}: must be at least 1")


def _check_inversion(options: argparse.Namespace) -> None:
    if options.sampler != "ddim" or options.eta:
        raise UserError("--method inversion goes with --sampler ddim and --eta 0 only")
    if options.per_image > 1:
        raise UserError(
            f"--per-image {options.per_image}: inversion is deterministic, all would be the same"
        )
    options.spacing = options.spacing or SPACING


def _records(
    options: argparse.Namespace, files: dict[str, Path]
) -> list[dict[str, str | int | None]]:
    digests = {name: file_sha256(file) for name, file in files.items()}
    wish = {"prompt": options.prompt, "label": options.label}
    wish = {key: value for key, value in wish.items() if value is not None}
    return [
        {"file": result, "image": file.name, "image_sha256": digests[name]} | wish
        for name, file in files.items()
        for result in result_files(name, options.per_image)
    ]


def _settings(options: argparse.Namespace, multiple: int) -> dict[str, object]:
    settings = {
        "method": options.method,
        "strength": options.strength,
        "source_prompt": options.source_prompt,
        "source_label": options.source_label,
        "size": options.frame,
        "sides_multiple_of": multiple,
    }
    if options.guide_image is not None:
        settings |= {
            "guide_image_sha256": file_sha256(options.guide_image),
            "guide_scale": options.guide_scale,
            "guide_factor": options.guide_factor,
        }
    return settings


def _guide_picture(session: SamplingSession, picture: Tensor) -> Tensor:
    """The picture to resemble, framed like an image (C, H, W); that itself if there is none."""
    file = session.options.guide_image
    return picture if file is None else read_picture(file, len(picture), picture.shape[1:])


@torch.no_grad()
def edited(
    session: SamplingSession, images: Tensor, seeds: Sequence[int], guides: Tensor
) -> Tensor:
    """Changed images (B, C, H, W) of images and what to resemble, both of that shape."""
    options, model, noise = session.options, session.model, SeededNoise(seeds)
    wanted = conditions(session, options.prompt, options.label, len(images))
    denoise = model.conditional_denoise(wanted, options.guidance)
    if options.guide_image is not None:
        denoise = _guided(session, denoise, guides)
    z = model.encode_mode(images.to(session.device))
    if options.method == "inversion":
        begin = first_update(session.sampler, model.schedule, options.strength)
        x = inverted(session, z, len(session.sampler.times(model.schedule)) - begin)
    else:
        x, begin = noised(z, session.sampler, model.schedule, noise, options.strength)
    z = run_sampler(
        session.sampler, denoise, x, model.schedule, noise, begin=begin, progress=session.progress
    )
    return on_cpu(model.decode(z))


def inverted(session: SamplingSession, z: Tensor, updates: int) -> Tensor:
    """The noisy state that becomes the latents z (B, C, h, w) in so many updates."""
    options, schedule = session.options, session.model.schedule
    source = conditions(session, options.source_prompt, options.source_label, len(z))
    inversion = DDIMInversion(len(session.sampler.times(schedule)), options.spacing)
    steps = inversion(session.model.conditional_denoise(source), z, schedule)
    for step in itertools.islice(steps, updates):
        z = step.x
    return z


def _guided(session: SamplingSession, denoise: Denoise, guides: Tensor) -> Denoise:
    factor, model = session.options.guide_factor, session.model
    likelihood = DownsampledL2(reduce(guides.to(session.device), factor), factor)
    return ImageGuidance(
        denoise, model.decode, likelihood, session.options.guide_scale, model.schedule
    )


def draw(session: SamplingSession, files: dict[str, Path], channels: int) -> None:
    """Write edited.png."""
    rows = []
    for name, file in list(files.items())[:MOST_ROWS]:
        results = [session.out / result for result in result_files(name, session.options.per_image)]
        image = read_picture(file, channels, session.options.frame)
        rows.append(Row(name, [Cell(image[:3]), *(Cell(result) for result in results)]))
    save_rows(rows, session.out / "edited.png")
    say(f"images beside their results: {session.out / 'edited.png'}")
