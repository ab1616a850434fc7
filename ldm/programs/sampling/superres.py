"""Enlarge images with a super-resolution model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import InterpolationMode, resize

from ldm.checkpoint import file_sha256
from ldm.cli.app import say
from ldm.cli.images import (
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
from ldm.cli.outputs import generate
from ldm.cli.sampling import SamplingSession
from ldm.conditioners.spatial import ConcatImage
from ldm.errors import UserError
from ldm.visualization.figure import Cell, Row, save_rows

INPUT = "lr_image"


def run(options: argparse.Namespace) -> None:
    """Read the images, enlarge them, and show both."""
    check_count(options)
    files = picture_files(options.images)
    session = SamplingSession.load(options)
    small = _small_image(session)
    check_conditions(session, options.prompt, options.label, given=(INPUT,))
    for file in files.values():
        read_picture(file, small.channels)  # finds bad ones now
    factor = session.model.autoencoder.downsampling_factor
    requests = [file for file in files.values() for _ in range(options.per_image)]

    def make(indices: Sequence[int], seeds: Sequence[int]) -> list[Tensor]:
        pictures = [read_picture(requests[k], small.channels) for k in indices]
        full = padded(pictures, denoiser_factor(session))

        def enlarge(group: Sequence[int]) -> Tensor:
            images = torch.stack([full[k] for k in group])
            batch = conditions(session, options.prompt, options.label, len(group), (INPUT,))
            size = (images.shape[2] * factor, images.shape[3] * factor)
            return session.images(batch | {INPUT: images}, [seeds[k] for k in group], size=size)

        return cut_back(by_size(full, enlarge), pictures, factor)

    generate(session, make, _records(options, files), options.per_image, {"factor": factor})
    if session.processes.first:
        _draw(session, files, factor)


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


def _records(options: argparse.Namespace, files: dict[str, Path]) -> list[dict[str, object]]:
    return [
        {"file": result, "image": file.name, "image_sha256": digest}
        for name, file in files.items()
        for digest in [file_sha256(file)]
        for result in result_files(name, options.per_image)
    ]


def _draw(session: SamplingSession, files: dict[str, Path], factor: int) -> None:
    rows = []
    for name, file in list(files.items())[:MOST_ROWS]:
        image = read_picture(file, 3)
        size = [factor * side for side in image.shape[1:]]
        bicubic = resize(image, size, InterpolationMode.BICUBIC, antialias=True)
        made = [
            Cell(session.out / result) for result in result_files(name, session.options.per_image)
        ]
        rows.append(Row(name, [Cell(bicubic, "bicubic"), *made]))
    sheet = session.out / "enlarged.png"
    save_rows(rows, sheet)
    say(f"bicubic enlargements and results {sheet}")
