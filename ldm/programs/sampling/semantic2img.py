"""Make images of semantic maps: a class id for every pixel, read from PNG or .npy files."""

from __future__ import annotations

import argparse
import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldm.cli.app import say
from ldm.cli.outputs import generate
from ldm.cli.sampling import SamplingSession
from ldm.conditioners.spatial import SpatialRescaler
from ldm.data.label_maps import (
    EXTENSIONS,
    check_label_map,
    pad_label_map,
    read_label_map,
    resize_label_map,
)
from ldm.data.listing import list_folder
from ldm.errors import UserError
from ldm.visualization.conditions import colour_label_map
from ldm.visualization.figure import Cell, Row, save_rows

MOST_ROWS = 16


def run(options: argparse.Namespace) -> None:
    """Read the maps, sample, and draw them beside the samples."""
    if options.per_map < 1:
        raise UserError(f"--per-map {options.per_map}: must be at least 1")
    if options.resize and min(options.resize) < 1:
        raise UserError(f"--resize {options.resize[0]} {options.resize[1]}: must be positive")

    files = map_files(options.maps)
    session = SamplingSession.load(options)
    conditioner = map_conditioner(session)
    read = functools.partial(read_map, conditioner=conditioner, size=options.resize)
    digests = {name: digest(read(file)) for name, file in files.items()}  # finds bad maps now
    requests = [file for file in files.values() for _ in range(options.per_map)]
    multiple = multiple_of(session)

    def make(indices: Sequence[int], seeds: Sequence[int]) -> list[Tensor]:
        maps = [read(requests[i]) for i in indices]
        return make_images(session, conditioner.key, maps, seeds, multiple)

    records = [
        {"file": f"images/{name}_{i}.png", "map": file.name, "map_sha256": digests[name]}
        for name, file in files.items()
        for i in range(options.per_map)
    ]
    settings = {"resize": options.resize, "sides_multiple_of": multiple}
    generate(session, make, records, columns=options.per_map, settings=settings)
    if session.processes.first:
        maps = {name: read(file) for name, file in list(files.items())[:MOST_ROWS]}
        draw(session, maps, conditioner.in_channels)


def map_files(path: Path) -> dict[str, Path]:
    """The files of maps by the names of their images, which are the paths below the folder."""
    if path.is_file():
        return {path.stem: path}
    if not path.exists():
        raise UserError(f"{path}: no such label map or folder of them")
    files: dict[str, Path] = {}
    for relative in list_folder(path, EXTENSIONS, "label map").images:
        name = str(Path(relative).with_suffix("")).replace("/", "_")
        if name in files:
            raise UserError(f"{path}: {files[name]} and {relative} would both become {name}.png")
        files[name] = path / relative
    return files


def map_conditioner(session: SamplingSession) -> SpatialRescaler:
    """The conditioner that reads maps, if that is all the model reads."""
    conditioners = list(session.model.conditioners)
    if len(conditioners) == 1 and isinstance(conditioners[0], SpatialRescaler):
        return conditioners[0]
    kinds = ", ".join(type(conditioner).__name__ for conditioner in conditioners) or "nothing"
    raise UserError(
        f"{session.options.source} is conditioned on {kinds}, not on a label map (SpatialRescaler)"
    )


def read_map(file: Path, conditioner: SpatialRescaler, size: Sequence[int] | None) -> Tensor:
    """The ids (H, W) of a file, all of them known to the model."""
    ids = read_label_map(file)
    check_label_map(ids, conditioner.in_channels, conditioner.ignore, f"label map {file}")
    return resize_label_map(ids, (size[0], size[1])) if size else ids


def multiple_of(session: SamplingSession) -> int:
    """What sides of images must be multiples of: for the first stage and for the denoiser."""
    denoiser: Any = session.model.denoiser
    return int(
        session.model.autoencoder.downsampling_factor * getattr(denoiser, "downsampling_factor", 1)
    )


def make_images(
    session: SamplingSession,
    key: str,
    maps: Sequence[Tensor],
    seeds: Sequence[int],
    multiple: int,
) -> list[Tensor]:
    """An image of the size of each map; maps of one size together."""
    padded = [pad_label_map(ids, multiple) for ids in maps]
    images: dict[int, Tensor] = {}
    for size in dict.fromkeys((ids.shape[0], ids.shape[1]) for ids in padded):
        group = [k for k, ids in enumerate(padded) if ids.shape == size]
        batch = {key: torch.stack([padded[k] for k in group])}
        made = session.images(batch, [seeds[k] for k in group], size)
        images |= dict(zip(group, made, strict=True))
    return [images[k][:, : ids.shape[0], : ids.shape[1]] for k, ids in enumerate(maps)]


def digest(ids: Tensor) -> str:
    """Which map it was."""
    return hashlib.sha256(ids.contiguous().numpy().tobytes()).hexdigest()


def draw(session: SamplingSession, maps: dict[str, Tensor], num_classes: int) -> None:
    """Write maps.png."""
    rows = []
    for name, ids in maps.items():
        samples = [session.out / f"images/{name}_{i}.png" for i in range(session.options.per_map)]
        drawn = colour_label_map(ids, num_classes)
        rows.append(Row(name, [Cell(drawn), *(Cell(sample) for sample in samples)]))
    save_rows(rows, session.out / "maps.png")
    say(f"maps beside their images: {session.out / 'maps.png'}")
