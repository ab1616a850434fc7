"""Enlarge images with a super-resolution model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import InterpolationMode, resize

from ldm.cli.conditions import check_conditions, conditions
from ldm.cli.images import (
    by_size,
    cut_back,
    denoiser_factor,
    draw_results,
    end_without,
    padded,
    picture_files,
    read_picture,
    readable,
    result_records,
)
from ldm.cli.outputs import generate
from ldm.cli.sampling import SamplingSession
from ldm.conditioners.spatial import ConcatImage
from ldm.errors import UserError
from ldm.visualization.figure import Cell

INPUT = "lr_image"


def run(options: argparse.Namespace) -> None:
    """Read the images, enlarge them, and show both."""
    files = picture_files(options.images)
    session = SamplingSession.load(options)
    small = _small_image(session)
    check_conditions(session, options.prompt, options.label, given=(INPUT,))
    good = readable(session, files, lambda file: read_picture(file, small.channels))
    factor = session.model.autoencoder.downsampling_factor
    requests = [file for file in good.values() for _ in range(options.per_image)]

    def make(indices: Sequence[int], seeds: Sequence[int]) -> list[Tensor]:
        pictures = [read_picture(requests[k], small.channels) for k in indices]
        full = padded(pictures, denoiser_factor(session))

        def enlarge(group: Sequence[int]) -> Tensor:
            images = torch.stack([full[k] for k in group])
            batch = conditions(session, options.prompt, options.label, len(group), (INPUT,))
            size = (images.shape[2] * factor, images.shape[3] * factor)
            return session.images(batch | {INPUT: images}, [seeds[k] for k in group], size=size)

        return cut_back(by_size(full, enlarge), pictures, factor)

    records = result_records(options, files, left_out=files.keys() - good.keys())
    generate(session, make, records, options.per_image, {"factor": factor})
    what = "bicubic enlargements and results"
    draw_results(session, good, lambda file: _bicubic(file, factor), "enlarged.png", what)
    end_without(session, files, good)


def _small_image(session: SamplingSession) -> ConcatImage:
    """The conditioner that takes the image to be enlarged.

    Raises:
        UserError: the model has none.
    """
    for part in session.model.conditioners:
        if isinstance(part, ConcatImage) and part.key == INPUT:
            return part
    raise UserError(
        f"{session.options.source} is no super-resolution model: it does not take {INPUT!r}; "
        "docs/sampling.md names the script for each kind of model"
    )


def _bicubic(file: Path, factor: int) -> list[Cell]:
    image = read_picture(file, 3)
    size = [factor * side for side in image.shape[1:]]
    return [Cell(resize(image, size, InterpolationMode.BICUBIC, antialias=True), "bicubic")]
