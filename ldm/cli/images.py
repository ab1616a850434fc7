"""Pictures in and out: files and what their results are called, sides of any length, holes."""

from __future__ import annotations

import argparse
import hashlib
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from ldm.autoencoders.tiled import pad_to_multiple
from ldm.cli.app import say
from ldm.cli.conditions import conditions
from ldm.cli.sampling import SamplingSession
from ldm.data.framing import Framing, to_tensor
from ldm.data.image_io import EXTENSIONS, read_image
from ldm.data.inpainting.blending import fill_with_mean
from ldm.data.listing import list_folder
from ldm.diffusion.sampling import run_sampler
from ldm.errors import DataError, UnreadableInputsError, UserError
from ldm.files import LONGEST_NAME, file_sha256, fitting_name, shown
from ldm.samplers.inpainting import KnownRegion, latent_hole
from ldm.samplers.noise import SeededNoise
from ldm.visualization.figure import Cell, Row, save_rows

MOST_ROWS = 16
"""Of the sheets that show images beside results."""
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""How image files are read, by the channels that a model takes."""
T = TypeVar("T")


def picture_files(
    places: Sequence[Path], endings: Sequence[str] = EXTENSIONS, what: str = "image"
) -> dict[str, Path]:
    """Image files by the names of their results; see ``picture_stems`` and ``result_names``."""
    stems = picture_stems(places, endings, what)
    return dict(zip(result_names(list(stems)), stems.values(), strict=True))


def picture_stems(
    places: Sequence[Path], endings: Sequence[str] = EXTENSIONS, what: str = "image"
) -> dict[str, Path]:
    """Image files by their paths below the folder, without ending.

    Args:
        places: files, and folders of them, that are there.
        endings: of such files.
        what: is in a file, for messages.

    Raises:
        UserError: a file is none of these, or two have one such path.
    """
    found: list[tuple[str, Path]] = []
    for place in places:
        if place.is_dir():
            relatives = list_folder(place, endings, what).images
            found += [(relative, place / relative) for relative in relatives]
        elif place.suffix.lower() not in endings:
            raise UserError(f"{shown(place)}: not one of {', '.join(endings)}")
        else:
            found.append((place.name, place))
    files: dict[str, Path] = {}
    for relative, file in found:
        stem = str(Path(relative).with_suffix(""))
        if stem in files:
            both = f"{shown(files[stem])} and {shown(file)}"
            raise UserError(f"{both} would both become {shown(_flat(stem))}.png: rename one")
        files[stem] = file
    return files


def result_names(stems: Sequence[str]) -> list[str]:
    """What the results of images are called, without ending: their paths with _ in place of /.

    Of those that would then be equal, also where a file system does not tell small letters from
    large ones, each gets a hash of its path.
    """
    alike = Counter(folded(_flat(stem)) for stem in stems)
    names = []
    for stem in stems:
        name = _flat(stem)
        if alike[folded(name)] > 1:
            digest = hashlib.sha256(stem.encode("utf-8", "surrogatepass")).hexdigest()
            name = f"{name}-{digest[:8]}"
        names.append(name)
    return names


def _flat(stem: str) -> str:
    return stem.replace("/", "_")


def folded(name: str) -> str:
    """A name without what some file systems do not tell apart: case, and forms of one letter."""
    return unicodedata.normalize("NFC", name).casefold()


def result_files(name: str, count: int, numbered: bool = False) -> list[str]:
    """Where the results of an image go below OUT: under its own name if there is but one.

    Args:
        name: of the results; a hash stands for the end of one that is too long for a file.
        count: of the results.
        numbered: also the only one has a number.
    """
    ends = [f"_{i}.png" for i in range(count)] if numbered or count > 1 else [".png"]
    begin = fitting_name(name, room=LONGEST_NAME - len(ends[-1]))
    return [f"images/{begin}{end}" for end in ends]


def readable(
    session: SamplingSession, files: Mapping[str, T], read: Callable[[T], object]
) -> dict[str, T]:
    """Those of the inputs that can be read; the user hears of the others.

    Args:
        session: for warnings.
        files: inputs by the names of their results.
        read: reads one.

    Raises:
        UserError: none can be read.
    """
    found = {}
    for name, file in files.items():
        try:
            read(file)
        except DataError as error:
            if len(files) == 1:
                raise
            session.warn(f"left out: {error}")
        else:
            found[name] = file
    if not found:
        raise UserError(f"none of the {len(files)} inputs can be read: see the warnings")
    return found


def end_without(session: SamplingSession, files: Sized, found: Sized) -> None:
    """Say at the end how many inputs have no result.

    Raises:
        UnreadableInputsError: there are some; the first process says so.
    """
    count = len(files) - len(found)
    if count and session.processes.first:
        raise UnreadableInputsError(
            f"{count} of {len(files)} inputs could not be read and have no result: see the "
            "warnings; all others are done"
        )


def read_picture(file: Path, channels: int, size: Sequence[int] | None = None) -> Tensor:
    """An image (C, H, W) in [-1, 1], as it is or resized and centre-cropped to a size.

    Raises:
        UserError: the file is unreadable, or no file has such a number of channels.
    """
    if channels not in MODES:
        raise UserError(f"{file}: the model takes {channels} channels, image files have 1, 3 or 4")
    image, _ = read_image(file, mode=MODES[channels])
    return to_tensor(image if size is None else Framing(size[0], size[1])(image, lambda: 0.0))


def image_channels(session: SamplingSession) -> int:
    """Channels of the images of a model."""
    return int(getattr(session.model.autoencoder, "image_channels", 3))


def denoiser_factor(session: SamplingSession) -> int:
    """What sides of latents are best multiples of."""
    denoiser: Any = session.model.denoiser
    return int(getattr(denoiser, "downsampling_factor", 1))


def multiple_of(session: SamplingSession) -> int:
    """What sides of images are best multiples of: for the first stage and for the denoiser."""
    return int(session.model.autoencoder.downsampling_factor) * denoiser_factor(session)


def padded(pictures: Sequence[Tensor], multiple: int) -> list[Tensor]:
    """Images (C, H, W), each continued by its mirror image until ``multiple`` divides its sides."""
    return [pad_to_multiple(picture[None], multiple)[0] for picture in pictures]


def by_size(pictures: Sequence[Tensor], make: Callable[[Sequence[int]], Tensor]) -> list[Tensor]:
    """Make a result for every image, those of images of one size in one batch.

    Args:
        pictures: (C, H, W), or label maps (H, W), of any sizes.
        make: from the places of some images of one size to their results (B, C, H', W').

    Returns:
        The results, in the order of the images.
    """
    results: dict[int, Tensor] = {}
    for shape in dict.fromkeys(picture.shape for picture in pictures):
        group = [k for k, picture in enumerate(pictures) if picture.shape == shape]
        results |= dict(zip(group, make(group), strict=True))
    return [results[k] for k in range(len(pictures))]


def cut_back(results: Sequence[Tensor], pictures: Sequence[Tensor], scale: int = 1) -> list[Tensor]:
    """Results (C, H', W') without what was added to the images (C, H, W), enlarged by ``scale``."""
    return [
        result[:, : scale * picture.shape[1], : scale * picture.shape[2]]
        for result, picture in zip(results, pictures, strict=True)
    ]


def on_cpu(images: Tensor) -> Tensor:
    """Images (B, C, H, W) as ``generate`` takes them: float32 in [-1, 1]."""
    return images.clamp(-1, 1).float().cpu()


@torch.no_grad()
def filled_around(
    session: SamplingSession, images: Tensor, masks: Tensor, seeds: Sequence[int]
) -> Tensor:
    """Images (B, C, H, W) whose holes any model fills, given what is known at every step.

    Args:
        session: the model, with a prompt or label that has passed ``check_conditions``.
        images: (B, C, H, W) in [-1, 1].
        masks: (B, 1, H, W), 1 in the holes.
        seeds: one an image.
    """
    options, model, noise = session.options, session.model, SeededNoise(seeds)
    batch = conditions(session, options.prompt, options.label, len(images))
    denoise = model.conditional_denoise(batch, **session.guidance)
    shown = torch.stack([fill_with_mean(*pair) for pair in zip(images, masks, strict=True)])
    z = model.encode_mode(shown.to(session.device))
    hole = latent_hole(masks, model.autoencoder.downsampling_factor).to(z)
    region = KnownRegion(z, hole, model.schedule, noise)
    sampler, progress = session.sampler, session.progress
    x = run_sampler(sampler, denoise, noise(z), model.schedule, noise, region, progress=progress)
    return on_cpu(model.decode(region.paste(x)))


def result_records(
    options: argparse.Namespace,
    files: Mapping[str, Path],
    more: Mapping[str, dict[str, str]] | None = None,
    left_out: Collection[str] = (),
) -> list[dict[str, Any]]:
    """What ``samples.json`` says of every result: of which image it is, and what was wished for.

    Args:
        options: with ``prompt``, ``label``, ``seed`` and ``per_image``.
        files: images by the names of their results.
        more: what else there is to say of an image.
        left_out: names of images without results, which have their seeds all the same.
    """
    wish = {"prompt": options.prompt, "label": options.label}
    wish = {key: value for key, value in wish.items() if value is not None}
    records = []
    for k, (name, file) in enumerate(files.items()):
        if name in left_out:
            continue
        about = {"image": file.name, "image_sha256": file_sha256(file)}
        about |= (more or {}).get(name, {}) | wish
        for i, result in enumerate(result_files(name, options.per_image)):
            seed = options.seed + k * options.per_image + i
            records.append({"file": result, "seed": seed} | about)
    return records


def draw_results(
    session: SamplingSession,
    files: Mapping[str, T],
    cells: Callable[[T], Sequence[Cell]],
    sheet: str,
    what: str,
) -> None:
    """Write a sheet with a row per image, what is shown of it and then its results.

    Args:
        session: its first process writes.
        files: images by the names of their results.
        cells: what is shown of one.
        sheet: name of the file.
        what: it shows, for the user.
    """
    if not session.processes.first:
        return
    rows = []
    for name, file in list(files.items())[:MOST_ROWS]:
        results = result_files(name, session.options.per_image)
        rows.append(Row(name, [*cells(file), *(Cell(session.out / result) for result in results)]))
    save_rows(rows, session.out / sheet)
    say(f"{what} {session.out / sheet}")
