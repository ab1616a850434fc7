"""Fill holes in images: with an inpainting model, or with any other one."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
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
    conditions,
    cut_back,
    image_channels,
    multiple_of,
    on_cpu,
    padded,
    picture_files,
    read_picture,
    result_files,
)
from ldm.cli.outputs import generate
from ldm.cli.sampling import SamplingSession
from ldm.data.framing import to_tensor
from ldm.data.image_io import read_image
from ldm.data.inpainting.blending import blacken, fill_with_mean, paste, paste_seamlessly
from ldm.diffusion.sampling import run_sampler
from ldm.errors import UserError
from ldm.samplers.inpainting import KnownRegion, latent_hole
from ldm.samplers.noise import SeededNoise
from ldm.visualization.figure import Cell, Row, save_rows

SUFFIX = "_mask"
INPUTS = ("masked_image", "mask")
"""Batch entries of models that were trained to fill holes."""


@dataclass(frozen=True)
class Work:
    """An image and its mask."""

    image: Path
    mask: Path

    def read(self, channels: int) -> tuple[Tensor, Tensor]:
        """The image (C, H, W) in [-1, 1] and the hole (1, H, W) in {0, 1}.

        Raises:
            UserError: their sizes differ.
        """
        image = read_picture(self.image, channels)
        picture, _ = read_image(self.mask, mode="L")
        mask = (to_tensor(picture) >= 0).float()  # white from half on
        if mask.shape[1:] != image.shape[1:]:
            sizes = [" x ".join(map(str, part.shape[:0:-1])) for part in (mask, image)]
            raise UserError(
                f"{self.mask} has {sizes[0]} pixels, {self.image} has {sizes[1]}: a mask must have "
                "the size of its image"
            )
        return image, mask


def run(options: argparse.Namespace) -> None:
    """Read images and masks, fill the holes, and show them."""
    check_count(options)
    if options.seamless and options.no_paste:
        raise UserError("--seamless has no effect with --no-paste: give one of them")
    if not options.folder.is_dir():
        raise UserError(f"{options.folder}: no such folder")
    session = SamplingSession.load(options)
    trained = _trained_for_it(session)
    check_conditions(session, options.prompt, options.label, given=INPUTS)
    if options.guidance != 1 and not trained and (options.prompt, options.label) == (None,) * 2:
        raise UserError(f"--guidance {options.guidance:g} has no effect: give --prompt or --label")
    files = _pairs(session, options.folder, options.masks)
    channels = image_channels(session)
    for work in files.values():
        if not work.read(channels)[1].any():  # also finds bad ones now
            session.warn(f"{work.mask}: nothing is white, so there is nothing to fill in")
    if not trained and session.processes.first:
        say("the model was not trained to fill holes: what is known is put back at every step")
    requests = [work for work in files.values() for _ in range(options.per_image)]

    def make(indices: Sequence[int], seeds: Sequence[int]) -> list[Tensor]:
        images, masks = zip(*(requests[k].read(channels) for k in indices), strict=True)
        full = padded(images, multiple_of(session)), padded(masks, multiple_of(session))

        def fill(group: Sequence[int]) -> Tensor:
            image, mask = (torch.stack([part[k] for k in group]) for part in full)
            method = filled_by_model if trained else filled_around
            return method(session, image, mask, [seeds[k] for k in group])

        results = cut_back(by_size(full[0], fill), images)
        if options.no_paste:
            return results
        join = paste_seamlessly if options.seamless else paste
        return [join(*parts) for parts in zip(results, images, masks, strict=True)]

    method = "inpainting model" if trained else "known region at every step"
    settings = {"method": method, "pasted": not options.no_paste, "seamless": options.seamless}
    generate(session, make, _records(options, files), options.per_image, settings)
    if session.processes.first:
        _draw(session, files, channels)


def _trained_for_it(session: SamplingSession) -> bool:
    keys = {part.key for part in session.model.conditioners}
    if keys & set(INPUTS) and not keys >= set(INPUTS):
        raise UserError(f"{session.options.source}: needs only one of {' and '.join(INPUTS)}")
    return keys >= set(INPUTS)


def _pairs(session: SamplingSession, folder: Path, mask_folder: Path | None) -> dict[str, Work]:
    """Images with their masks, by the name of their results.

    Raises:
        UserError: there is none.
    """
    files = picture_files([folder])
    if mask_folder is None:
        ending, masks = SUFFIX, {name: file for name, file in files.items() if _is_mask(name)}
        files = {name: file for name, file in files.items() if name not in masks}
    elif not mask_folder.is_dir():
        raise UserError(f"--masks {mask_folder}: no such folder")
    else:
        ending, masks = "", picture_files([mask_folder])
    pairs = {}
    for name, file in files.items():
        if name + ending in masks:
            pairs[name] = Work(file, masks[name + ending])
        else:
            session.warn(f"{file}: left out, it has no mask {Path(name).name}{ending}.png")
    if not pairs:
        raise UserError(
            f"{folder}: no image with a mask; give NAME.png and NAME{SUFFIX}.png, or masks of the "
            "same names in --masks DIR"
        )
    return pairs


def _is_mask(name: str) -> bool:
    return name.endswith(SUFFIX)


def _records(options: argparse.Namespace, files: dict[str, Work]) -> list[dict[str, object]]:
    wish = {"prompt": options.prompt, "label": options.label}
    wish = {key: value for key, value in wish.items() if value is not None}
    about = {
        name: {
            "image": work.image.name,
            "image_sha256": file_sha256(work.image),
            "mask_sha256": file_sha256(work.mask),
        }
        for name, work in files.items()
    }
    return [
        {"file": result} | about[name] | wish
        for name in files
        for result in result_files(name, options.per_image)
    ]


def filled_by_model(
    session: SamplingSession, images: Tensor, masks: Tensor, seeds: Sequence[int]
) -> Tensor:
    """Images (B, C, H, W) by a model that sees the masked images and the masks (B, 1, H, W)."""
    options = session.options
    batch = conditions(session, options.prompt, options.label, len(images), given=INPUTS)
    batch |= {"masked_image": blacken(images, masks), "mask": masks}
    size = (images.shape[2], images.shape[3])
    return session.images(batch, seeds, size=size)


@torch.no_grad()
def filled_around(
    session: SamplingSession, images: Tensor, masks: Tensor, seeds: Sequence[int]
) -> Tensor:
    """The same by any model, which is given what is known at every step."""
    options, model, noise = session.options, session.model, SeededNoise(seeds)
    batch = conditions(session, options.prompt, options.label, len(images))
    denoise = model.conditional_denoise(batch, options.guidance)
    shown = torch.stack([fill_with_mean(*pair) for pair in zip(images, masks, strict=True)])
    z = model.encode_mode(shown.to(session.device))
    hole = latent_hole(masks, model.autoencoder.downsampling_factor).to(z)
    region = KnownRegion(z, hole, model.schedule, noise)
    x = run_sampler(
        session.sampler, denoise, noise(z), model.schedule, noise, region, progress=session.progress
    )
    return on_cpu(model.decode(region.paste(x)))


def _draw(session: SamplingSession, files: dict[str, Work], channels: int) -> None:
    rows = []
    for name, work in list(files.items())[:MOST_ROWS]:
        image, mask = work.read(channels)
        made = [Cell(session.out / file) for file in result_files(name, session.options.per_image)]
        rows.append(Row(name, [Cell(image), Cell(blacken(image, mask)), *made]))
    sheet = session.out / "inpainted.png"
    save_rows(rows, sheet)
    say(f"images, holes and results {sheet}")
