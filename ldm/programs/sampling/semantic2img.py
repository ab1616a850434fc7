"""Make images of semantic maps: a class id for every pixel, read from PNG or .npy files."""

from __future__ import annotations

import argparse
import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ldm.cli.app import say
from ldm.cli.conditions import find_conditioner
from ldm.cli.images import (
    MOST_ROWS,
    by_size,
    cut_back,
    end_without,
    multiple_of,
    picture_files,
    readable,
    result_files,
)
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
from ldm.visualization.conditions import colour_label_map
from ldm.visualization.figure import Cell, Row, save_rows


def run(options: argparse.Namespace) -> None:
    """Read the maps, sample, and draw them beside the samples."""
    files = picture_files([options.maps], EXTENSIONS, "label map")
    session = SamplingSession.load(options)
    conditioner = find_conditioner(session, SpatialRescaler, "a label map")
    read = functools.partial(read_map, conditioner=conditioner, size=options.resize)
    good = readable(session, files, read_label_map)
    digests = {name: digest(read(file)) for name, file in good.items()}  # finds unknown ids now
    requests = [file for file in good.values() for _ in range(options.per_map)]
    multiple = multiple_of(session)

    def make(indices: Sequence[int], seeds: Sequence[int]) -> list[Tensor]:
        maps = [read(requests[k]) for k in indices]
        full = [pad_label_map(ids, multiple) for ids in maps]

        def of_one_size(group: Sequence[int]) -> Tensor:
            batch = {conditioner.key: torch.stack([full[k] for k in group])}
            height, width = full[group[0]].shape
            return session.images(batch, [seeds[k] for k in group], (height, width))

        return cut_back(by_size(full, of_one_size), [ids[None] for ids in maps])

    records = [
        {"file": result, "seed": options.seed + k * options.per_map + i}
        | {"map": file.name, "map_sha256": digests[name]}
        for k, (name, file) in enumerate(files.items())
        if name in good
        for i, result in enumerate(result_files(name, options.per_map, numbered=True))
    ]
    settings = {"resize": options.resize, "sides_multiple_of": multiple}
    generate(session, make, records, columns=options.per_map, settings=settings)
    if session.processes.first:
        maps = {name: read(file) for name, file in list(good.items())[:MOST_ROWS]}
        draw(session, maps, conditioner.in_channels)
    end_without(session, files, good)


def read_map(file: Path, conditioner: SpatialRescaler, size: Sequence[int] | None) -> Tensor:
    """The ids (H, W) of a file, all of them known to the model."""
    ids = read_label_map(file)
    check_label_map(ids, conditioner.in_channels, conditioner.ignore, f"label map {file}")
    return resize_label_map(ids, (size[0], size[1])) if size else ids


def digest(ids: Tensor) -> str:
    """Which map it was."""
    return hashlib.sha256(ids.contiguous().numpy().tobytes()).hexdigest()


def draw(session: SamplingSession, maps: dict[str, Tensor], num_classes: int) -> None:
    """Write maps.png."""
    rows = []
    for name, ids in maps.items():
        results = result_files(name, session.options.per_map, numbered=True)
        samples = [session.out / result for result in results]
        drawn = colour_label_map(ids, num_classes)
        rows.append(Row(name, [Cell(drawn), *(Cell(sample) for sample in samples)]))
    save_rows(rows, session.out / "maps.png")
    say(f"maps beside their images: {session.out / 'maps.png'}")
