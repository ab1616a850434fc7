"""Change images with a latent diffusion model: into variations, or towards a prompt or class."""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ldm.cli.conditions import check_conditions, conditions
from ldm.cli.images import (
    by_size,
    cut_back,
    draw_results,
    end_without,
    image_channels,
    multiple_of,
    on_cpu,
    padded,
    picture_files,
    read_picture,
    readable,
    result_records,
)
from ldm.cli.outputs import generate
from ldm.cli.sampling import SamplingSession
from ldm.diffusion.guidance import DownsampledL2, ImageGuidance, reduce
from ldm.diffusion.sampling import Denoise, run_sampler
from ldm.files import file_sha256
from ldm.samplers.ddim_inversion import DDIMInversion
from ldm.samplers.img2img import first_update, noised
from ldm.samplers.noise import SeededNoise
from ldm.visualization.figure import Cell


def run(options: argparse.Namespace) -> None:
    """Read the images, change them, and show both."""
    files = picture_files(options.images)
    session = SamplingSession.load(options)
    check_conditions(session, options.prompt, options.label)
    if options.method == "inversion":
        prompt, label = options.source_prompt, options.source_label
        check_conditions(session, prompt, label, prefix="source-")
    channels = image_channels(session)
    if options.guide_image:
        read_picture(options.guide_image, channels, options.frame)
    good = readable(session, files, lambda file: read_picture(file, channels, options.frame))
    requests = [file for file in good.values() for _ in range(options.per_image)]
    factor = options.guide_factor if options.guide_image else 1
    multiple = math.lcm(multiple_of(session), factor)

    def make(indices: Sequence[int], seeds: Sequence[int]) -> list[Tensor]:
        pictures = [read_picture(requests[i], channels, options.frame) for i in indices]
        full = padded(pictures, multiple)
        guides = padded([_guide_picture(session, picture) for picture in pictures], multiple)

        def edit(group: Sequence[int]) -> Tensor:
            images, targets = (torch.stack([part[k] for k in group]) for part in (full, guides))
            return edited(session, images, [seeds[k] for k in group], targets)

        # a batch is of one size before *and* after padding only where the guides fit it
        return cut_back(by_size(full, edit), pictures)

    settings = _settings(session, multiple)
    records = result_records(options, files, left_out=files.keys() - good.keys())
    generate(session, make, records, options.per_image, settings)

    def cells(file: Path) -> list[Cell]:
        return [Cell(read_picture(file, channels, options.frame)[:3])]

    draw_results(session, good, cells, "edited.png", "images beside their results:")
    end_without(session, files, good)


def _settings(session: SamplingSession, multiple: int) -> dict[str, object]:
    options, schedule = session.options, session.model.schedule
    updates = len(session.sampler.times(schedule))
    settings = {
        "method": options.method,
        "strength": options.strength,
        "updates": updates - first_update(session.sampler, schedule, options.strength),
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
    denoise = model.conditional_denoise(wanted, **session.guidance)
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
