"""What the programs of sampling write: PNG files, a grid of them, ``samples.json``, and an npz."""

from __future__ import annotations

import json
import math
import os
import platform
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

import ldm
from ldm.cli.app import say
from ldm.cli.options.common import check_out_folder
from ldm.cli.sampling import SamplingSession
from ldm.compat.moved import with_current_names
from ldm.errors import UserError
from ldm.evaluation.sources.npz import write_npz
from ldm.evaluation.sources.record import RECORD, RUN_FROM_HERE
from ldm.files import path_from, read_json, shown, write_text
from ldm.locks import sole_writer
from ldm.visualization.images import save_grid, save_png

Make = Callable[[Sequence[int], Sequence[int]], Iterable[Tensor]]
"""``make(indices, seeds) -> images``: (B, C, H, W) in [-1, 1], or B images (C, H, W)."""
Record = dict[str, Any]

MOST_IN_GRID = 128
MADE_BY = "made_by"
_SHAPE = {"settings": dict, "samples": [{"file": str}], MADE_BY: list}
NOT_DECISIVE = ("run", "checkpoint")
"""Settings that may be spelled in another way: the hash says which weights they are."""


def generate(
    session: SamplingSession,
    make: Make,
    records: Sequence[Record],
    columns: int | None = None,
    settings: Record | None = None,
    npz: Path | None = None,
) -> None:
    """Write an image for every record, a grid of the first ones, and ``samples.json``.

    Batches have the same members in every call, of which the processes take every n-th; one that
    lacks a file is made again as a whole. So a killed call can be repeated, also by another number
    of processes, and image k is the same.

    Args:
        session: model and settings.
        make: makes the images of some indices.
        records: for each image what ``samples.json`` says about it besides its seed (prompt,
            label); "file" is where it goes below ``session.out``, images/00000.png, ... by default.
        columns: images per row of the grid.
        settings: what else decides what the images are.
        npz: file for all images and, where records have a "label", the labels.
    """
    entries = [
        {"file": f"images/{k:05d}.png", "seed": session.options.seed + k} | record
        for k, record in enumerate(records)
    ]
    files = [session.out / entry["file"] for entry in entries]
    check_out_folder("--out", session.out)
    with sole_writer(session.out, session.processes.first):
        batches = session.processes.from_first(
            lambda: _begin(session, entries, files, settings or {})
        )
        _make_batches(session, make, entries, batches)
        if session.processes.first:
            shown = files[:MOST_IN_GRID]
            save_grid(shown, columns or math.ceil(math.sqrt(len(shown))), session.out / "grid.png")
            if npz is not None:
                write_npz(npz, files, [entry.get("label") for entry in entries])
            say(f"{len(files)} images in {files[0].parent}   grid {session.out / 'grid.png'}")
            if npz is not None:
                say(f"all of them in {npz}")


def _begin(
    session: SamplingSession, entries: Sequence[Record], files: Sequence[Path], settings: Record
) -> list[list[int]]:
    """Write samples.json and give the batches that lack a file."""
    settings = session.settings() | settings
    made_by = _compare(session.out, settings, entries)
    step = session.options.batch_size
    absent = [not file.exists() for file in files]
    starts = range(0, len(files), step)
    batches = [list(range(start, min(start + step, len(files)))) for start in starts]
    batches = [batch for batch in batches if any(absent[k] for k in batch)]
    if batches:
        made_by = [*made_by, _made_by(session)]
    run = path_from(session.out, session.options.source)
    document = {"settings": settings, MADE_BY: made_by, RUN_FROM_HERE: run, "samples": entries}
    write_text(session.out / RECORD, json.dumps(document, indent=1) + "\n")
    if not all(absent):
        say(f"{len(files) - sum(absent)} of {len(files)} images are there already")
    if 0 < len(batches) < session.processes.count:
        session.warn(
            f"{session.processes.count} processes for {len(batches)} batches: some have nothing to "
            f"do; give a smaller --batch-size than {step}"
        )
    return batches


def _make_batches(
    session: SamplingSession,
    make: Make,
    entries: Sequence[Record],
    batches: Sequence[Sequence[int]],
) -> None:
    """Make the share of this process, and wait for the others."""
    processes = session.processes
    total = sum(map(len, batches))
    with tqdm(
        total=total, unit="image", desc="sampling", dynamic_ncols=True, disable=not processes.first
    ) as bar:

        def show(done: int) -> None:
            bar.update(done - bar.n)

        for batch in batches[processes.rank :: processes.count]:
            images = _made(make, batch, [entries[k]["seed"] for k in batch])
            for k, image in zip(batch, images, strict=True):
                path = session.out / entries[k]["file"]
                if not path.exists():
                    save_png(image, path, session.options.bytes)
            show(processes.add_done(len(batch)))
        processes.wait(meanwhile=lambda: show(processes.add_done(0)))


def _made(make: Make, indices: Sequence[int], seeds: Sequence[int]) -> list[Tensor]:
    try:
        images = list(make(indices, seeds))
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"out of memory with {len(indices)} images at once: give a smaller --batch-size, or "
            "--tile and --decode-tile"
        ) from error
    for k, image in zip(indices, images, strict=True):
        if not image.isfinite().all():
            raise UserError(
                f"image {k} holds values that are not finite: try --precision fp32, a lower "
                "--guidance, or another checkpoint"
            )
    return images


def _compare(out: Path, settings: Record, entries: Sequence[Record]) -> list[Record]:
    """Who made the images that are there; refuses to mix those of other settings."""
    file = out / RECORD
    if not os.path.lexists(file):
        return _none_of_others(out, entries)
    remedy = f"not written by this script: give another --out, or delete {shown(out)}"
    before = with_current_names(read_json(file, remedy=remedy, shape=_SHAPE))
    old, samples, made_by = before["settings"], before["samples"], before[MADE_BY]
    if not any(os.path.exists(out / entry["file"]) for entry in samples):
        return _none_of_others(out, entries)  # the call before this one failed at its first batch
    new = json.loads(json.dumps([settings, entries]))
    different = sorted(
        key
        for key in (old.keys() | new[0].keys()) - set(NOT_DECISIVE)
        if old.get(key) != new[0].get(key)
    )
    # Classes of captions are recorded since this release: an entry may lack them.
    pairs = zip(samples, new[1], strict=False)
    if any(given not in (entry, _without_label(entry)) for given, entry in pairs):
        different.append("prompts, labels or the like")
    if different:
        raise UserError(
            f"{out} holds images made with other settings ({', '.join(different)}; see {RECORD}): "
            "delete it or give another --out"
        )
    if len(samples) > len(entries):
        raise UserError(
            f"{out} holds {len(samples)} images of these settings, more than {len(entries)}: ask "
            "for as many, or give another --out"
        )
    return list(made_by)


def _none_of_others(out: Path, entries: Sequence[Record]) -> list[Record]:
    """Refuse images of which no record says how they were made; nobody made the others."""
    there = next((entry["file"] for entry in entries if os.path.lexists(out / entry["file"])), None)
    if there is not None:
        raise UserError(
            f"{shown(out / there)} is there, and no {RECORD} says how it was made: delete "
            f"{shown(out)} or give another --out"
        )
    return []


def _made_by(session: SamplingSession) -> Record:
    """How this call makes images, apart from what decides what they are."""
    return {
        "command": shlex.join(["python", *sys.argv]),
        "processes": session.processes.count,
        "batch_size": session.options.batch_size,
        "device": _device_name(session.device),
        "ldm": ldm.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def _without_label(entry: Record) -> Record:
    return {key: value for key, value in entry.items() if key != "label"}
