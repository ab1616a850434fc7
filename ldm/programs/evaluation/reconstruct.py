"""Send photographs through a first stage, at full resolution and of any height and width."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ldm.autoencoders.tiled import reconstruct
from ldm.cli.app import say
from ldm.cli.data import image_mode, load_first_stage
from ldm.cli.images import folded
from ldm.cli.model import locate_model, subject
from ldm.cli.options.common import check_out_folder
from ldm.data.framing import to_tensor
from ldm.data.image_io import EXTENSIONS, read_image
from ldm.data.listing import list_folder
from ldm.errors import DataError, UnreadableInputsError, UserError
from ldm.evaluation.metrics.reconstruction import SSIM_WINDOW, psnr, ssim
from ldm.files import fits, fitting_name, path_from, read_json, shown, write_text
from ldm.load.model import Source
from ldm.locks import sole_writer
from ldm.visualization.images import save_png

PAIRS = "pairs"
RECORD = "reconstructions.json"
_SHAPE = {"settings": dict, "images": dict}
SEED = 0


def run(arguments: argparse.Namespace) -> None:
    """Reconstruct one image after another."""
    images = _targets(arguments.images)
    source = locate_model(arguments)
    model, _ = load_first_stage(source, arguments)
    mode = image_mode(model, arguments.source)
    out: Path = arguments.out
    check_out_folder("--out", out)
    with sole_writer(out, first=True):
        record = _record(source, arguments, out)
        failed = _reconstruct_all(model, mode, images, record, arguments)
    say(f"{len(images) - len(failed)} images in {out}, beside their originals in {out / PAIRS}")
    if len(failed) == len(images):
        raise UserError(f"none of the {len(images)} images could be read: see above")
    if failed:
        raise UnreadableInputsError(
            f"{len(failed)} of {len(images)} images could not be read: see above; all others are "
            "done"
        )


def _reconstruct_all(
    model: Any,
    mode: str,
    images: dict[str, Path],
    record: dict[str, Any],
    arguments: argparse.Namespace,
) -> list[str]:
    """Reconstruct what is not there yet; the targets of images that cannot be read."""
    out, failed = arguments.out, []
    for target, file in images.items():
        if _is_there(record, target, file, out):
            say(f"{target}: is there already")
            continue
        try:
            x = _read(file, mode, arguments.max_side)
        except DataError as error:
            say(f"{target}: left out, {error}")
            failed.append(target)
            continue
        y = _reconstruct(model, x, arguments)
        _write(x, y, out, target)
        record["images"][target] = _numbers(x, y) | {"source": path_from(out, file)}
        _save(record, out / RECORD)
        say(_line(target, record["images"][target]))
    return failed


def _targets(places: list[str]) -> dict[str, Path]:
    """Path below OUT of each image that is to be read."""
    found: list[tuple[PurePosixPath, Path]] = []
    for place in map(Path, places):
        if place.is_dir():
            names = list_folder(place).images
            found += [(PurePosixPath(name), place / name) for name in names]
        elif place.suffix.lower() not in EXTENSIONS:
            raise UserError(f"{place}: not one of {', '.join(EXTENSIONS)}")
        else:
            found.append((PurePosixPath(place.name), place))
    if any(name.parts[0].casefold() == PAIRS for name, _ in found):
        raise UserError(f"images in a folder '{PAIRS}' would mix with the pairs: rename it")
    plain = Counter(folded(str(name.with_suffix(""))) for name, _ in found)
    whole = Counter(folded(str(name)) for name, _ in found)
    targets: dict[str, Path] = {}
    for name, file in found:
        stem = name.stem
        if plain[folded(str(name.with_suffix("")))] > 1:  # a.jpg beside a.png
            stem = name.name
        if whole[folded(str(name))] > 1:  # a.jpg beside A.jpg, which some file systems mix up
            stem += f"-{hashlib.sha256(os.fsencode(str(name))).hexdigest()[:8]}"
        target = str(name.with_name(fitting_name(stem, ".png")))
        if target in targets:
            raise UserError(
                f"{shown(targets[target])} and {shown(file)} would both be written to "
                f"{shown(target)}: give them in two calls, with another --out"
            )
        targets[target] = file
    return targets


def _record(source: Source, arguments: argparse.Namespace, out: Path) -> dict[str, Any]:
    """What is known of the images in ``out``; refuses to mix those of other settings."""
    settings = subject(source, arguments)
    settings |= {"sample": arguments.sample, "max_side": arguments.max_side}
    fresh = {"settings": settings, "images": {}}
    file = out / RECORD
    if arguments.overwrite or not file.exists():
        return fresh
    remedy = "it is no record of reconstructions: give another --out, or --overwrite"
    before: dict[str, Any] = read_json(file, remedy=remedy, shape=_SHAPE)
    relevant = settings.keys() - {"source", "checkpoint"}
    if any(before["settings"].get(key) != settings[key] for key in relevant):
        raise UserError(
            f"{out} holds reconstructions by other weights or options (see {RECORD}): give another "
            "--out, or --overwrite"
        )
    return before


def _save(record: dict[str, Any], file: Path) -> None:
    write_text(file, json.dumps(record, indent=1, allow_nan=False) + "\n")


def _is_there(record: dict[str, Any], target: str, file: Path, out: Path) -> bool:
    known = record["images"].get(target)
    ways = path_from(out, file), str(file)  # that of an earlier release is as it was typed
    same = fits(known, {"source": str}) and known["source"] in ways
    return same and (out / target).exists() and (out / PAIRS / target).exists()


def _read(file: Path, mode: str, max_side: int | None) -> Tensor:
    """An image (1, C, H, W) in [-1, 1]."""
    image, _ = read_image(file, mode=mode)
    longest = max(image.size)
    if max_side is not None and longest > max_side:
        width, height = (max(1, round(side * max_side / longest)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    return to_tensor(image)[None]


@torch.no_grad()
def _reconstruct(model: Any, x: Tensor, arguments: argparse.Namespace) -> Tensor:
    generator = torch.Generator().manual_seed(SEED) if arguments.sample else None
    try:
        y = reconstruct(model, x.to(arguments.device), generator)
    except RuntimeError as error:
        if "memory" not in str(error):
            raise
        height, width = x.shape[2:]
        raise UserError(
            f"{height}x{width} pixels need more memory than there is: give --max-side"
        ) from error
    return y.float().clamp(-1, 1).cpu()


def _write(x: Tensor, y: Tensor, out: Path, target: str) -> None:
    for path, picture in ((out / target, y), (out / PAIRS / target, torch.cat([x, y], dim=3))):
        path.parent.mkdir(parents=True, exist_ok=True)
        save_png(picture[0], path)


def _numbers(x: Tensor, y: Tensor) -> dict[str, Any]:
    height, width = x.shape[2:]
    ratio = float(psnr(x, y))
    return {
        "height": height,
        "width": width,
        "psnr": ratio if math.isfinite(ratio) else None,  # an exact copy; JSON has no infinity
        "ssim": float(ssim(x, y)) if min(height, width) >= SSIM_WINDOW else None,
    }


def _line(target: str, numbers: dict[str, Any]) -> str:
    ratio = "infinite" if numbers["psnr"] is None else f"{numbers['psnr']:.2f} dB"
    similar = "" if numbers["ssim"] is None else f"  SSIM {numbers['ssim']:.4f}"
    return f"{target}: {numbers['width']}x{numbers['height']}  PSNR {ratio}{similar}"
