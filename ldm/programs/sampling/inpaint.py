"""Fill holes in images: with an inpainting model, or with any other one."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ldm.cli.app import say
from ldm.cli.conditions import check_conditions, conditions
from ldm.cli.images import (
    by_size,
    cut_back,
    draw_results,
    end_without,
    filled_around,
    image_channels,
    multiple_of,
    padded,
    picture_stems,
    read_picture,
    readable,
    result_names,
    result_records,
)
from ldm.cli.outputs import generate
from ldm.cli.sampling import SamplingSession
from ldm.data.framing import to_tensor
from ldm.data.image_io import read_image
from ldm.data.inpainting.blending import hide, paste, paste_seamlessly
from ldm.data.names import Names
from ldm.errors import UserError
from ldm.files import file_sha256
from ldm.visualization.figure import Cell

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
    session = SamplingSession.load(options)
    trained = _trained_for_it(session)
    check_conditions(session, options.prompt, options.label, given=INPUTS)
    wished = options.prompt is not None or options.label is not None
    if options.guidance != 1 and not (trained or wished):
        raise UserError(f"--guidance {options.guidance:g} has no effect: give --prompt or --label")
    files = _pairs(session, options.folder, options.masks)
    channels = image_channels(session)

    def look(work: Work) -> None:
        if not work.read(channels)[1].any():
            session.warn(f"{work.mask}: nothing is white, so there is nothing to fill in")

    good = readable(session, files, look)
    if not trained and session.processes.first:
        say("the model was not trained to fill holes: what is known is put back at every step")
    requests = [work for work in good.values() for _ in range(options.per_image)]

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
        pasted = [join(*parts) for parts in zip(results, images, masks, strict=True)]
        if options.bytes == "truncate":
            known = [_safe_from_truncation(picture) for picture in pasted]
            pasted = [paste(*parts) for parts in zip(pasted, known, masks, strict=True)]
        return pasted

    method = "inpainting model" if trained else "known region at every step"
    settings = {"method": method, "pasted": not options.no_paste, "seamless": options.seamless}
    images = {name: work.image for name, work in files.items()}
    digests = {name: {"mask_sha256": file_sha256(work.mask)} for name, work in good.items()}
    records = result_records(options, images, digests, files.keys() - good.keys())
    generate(session, make, records, options.per_image, settings)

    def cells(work: Work) -> list[Cell]:
        image, mask = work.read(channels)
        return [Cell(image), Cell(hide(image, mask))]

    draw_results(session, good, cells, "inpainted.png", "images, holes and results")
    end_without(session, files, good)


def _safe_from_truncation(image: Tensor) -> Tensor:
    """What was read from bytes lies as often as not a hair below them; here, half a byte above."""
    return image + 0.5 / 127.5


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
    files = picture_stems([folder])
    if mask_folder is None:
        known = Names(files, f"folder '{folder}'")
        ending, masks = SUFFIX, {n: file for n, file in files.items() if _is_mask(n, known)}
        files = {name: file for name, file in files.items() if name not in masks}
    else:
        ending, masks = "", picture_stems([mask_folder])
    pairs, known = {}, Names(masks, f"the masks of {folder}")
    for name, file in files.items():
        mask = known.find(name + ending, ending)
        if mask is not None:
            pairs[name] = Work(file, masks[mask])
        else:
            session.warn(f"{file}: left out, it has no mask {Path(name).name}{ending}.png")
    if not pairs:
        raise UserError(
            f"{folder}: no image with a mask; give NAME.png and NAME{SUFFIX}.png, or masks of the "
            "same names in --masks DIR"
        )
    return dict(zip(result_names(list(pairs)), pairs.values(), strict=True))


def _is_mask(name: str, known: Names) -> bool:
    """Whether a name is that of the mask of an image that is there."""
    begin, end = name[: -len(SUFFIX)], name[-len(SUFFIX) :]
    return end.lower() == SUFFIX and known.find(begin, "") is not None


def filled_by_model(
    session: SamplingSession, images: Tensor, masks: Tensor, seeds: Sequence[int]
) -> Tensor:
    """Images (B, C, H, W) by a model that sees the masked images and the masks (B, 1, H, W)."""
    options = session.options
    batch = conditions(session, options.prompt, options.label, len(images), given=INPUTS)
    hidden = next(part.hidden for part in session.model.conditioners if part.key == INPUTS[0])
    batch |= {"masked_image": hide(images, masks, hidden), "mask": masks}
    size = (images.shape[2], images.shape[3])
    return session.images(batch, seeds, size=size)
