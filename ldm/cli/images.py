"""What the scripts that change images share: reading them, at any size, and their conditions."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldm.autoencoders.tiled import pad_to_multiple
from ldm.cli.conditions import OTHER_SCRIPTS, warn_of_cuts
from ldm.cli.sampling import SamplingSession
from ldm.conditioners.class_label import ClassLabel
from ldm.data.framing import Framing, to_tensor
from ldm.data.image_io import EXTENSIONS, read_image
from ldm.data.listing import list_folder
from ldm.errors import UserError

MOST_ROWS = 16
"""Of the sheets that show images beside results."""
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""How image files are read, by the channels that a model takes."""


def picture_files(places: Sequence[Path]) -> dict[str, Path]:
    """Image files by the names of their results, which are their paths below the folder.

    Raises:
        UserError: there is no such file or folder, or two would get one name.
    """
    found: list[tuple[str, Path]] = []
    for place in places:
        if place.is_dir():
            found += [(relative, place / relative) for relative in list_folder(place).images]
        elif not place.is_file():
            raise UserError(f"{place}: no such image or folder")
        elif place.suffix.lower() not in EXTENSIONS:
            raise UserError(f"{place}: not one of {', '.join(EXTENSIONS)}")
        else:
            found.append((place.name, place))
    files: dict[str, Path] = {}
    for relative, file in found:
        name = result_name(relative)
        if name in files:
            raise UserError(f"{files[name]} and {file} would both become {name}.png: rename one")
        files[name] = file
    return files


def result_name(relative: str) -> str:
    """What the result of an image is called, without ending."""
    return str(Path(relative).with_suffix("")).replace("/", "_")


def result_files(name: str, count: int) -> list[str]:
    """Where the results of an image go below OUT: under its own name if there is but one."""
    if count == 1:
        return [f"images/{name}.png"]
    return [f"images/{name}_{i}.png" for i in range(count)]


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


def by_size(
    pictures: Sequence[Tensor], make: Callable[[Sequence[int]], Tensor], scale: int = 1
) -> list[Tensor]:
    """Make a result for every image, those of images of one size in one batch.

    Args:
        pictures: (C, H, W), of any sizes.
        make: from the places of some images of one size to their results (B, C, H', W').
        scale: by which results are larger than images.

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


def check_count(options: Any) -> None:
    """Refuse --per-image below 1."""
    if options.per_image < 1:
        raise UserError(f"--per-image {options.per_image}: must be at least 1")


def check_conditions(
    session: SamplingSession,
    prompt: str | None,
    label: int | None,
    given: Collection[str] = (),
    prefix: str = "",
) -> None:
    """Refuse a prompt or label that the model does not know, and models that need other things.

    Args:
        session: the model.
        prompt: of a text model.
        label: class id.
        given: keys of the conditions that do not come from here.
        prefix: of the names of the options.

    Raises:
        UserError: it names the option, or the script that is for such a model.
    """
    source = session.options.source
    conditioners = [part for part in session.model.conditioners if part.key not in given]
    texts = [part for part in conditioners if getattr(part, "tokenizer", None) is not None]
    classes = [part for part in conditioners if isinstance(part, ClassLabel)]
    for part in conditioners:
        if part not in texts and part not in classes:
            other = OTHER_SCRIPTS.get(part.key)
            advice = f"use scripts/{other}" if other else "no script knows how to; see docs"
            raise UserError(f"{source} is conditioned on {part.key}: {advice}")
    if prompt is not None and not texts:
        raise UserError(f"--{prefix}prompt: {source} is not conditioned on text")
    if label is not None and not classes:
        raise UserError(f"--{prefix}label {label}: {source} is not conditioned on classes")
    for part in classes:
        if label is None and part.null_index is None:
            raise UserError(
                f"{source} is conditioned on classes and knows no 'no class': give --{prefix}label "
                f"0 to {part.num_classes - 1}"
            )
        if label is not None and not 0 <= label < part.num_classes:
            raise UserError(f"--{prefix}label {label}: not within 0 to {part.num_classes - 1}")
    for part in texts:
        warn_of_cuts(session, part.tokenizer, [prompt or ""])


def conditions(
    session: SamplingSession,
    prompt: str | None,
    label: int | None,
    count: int,
    given: Collection[str] = (),
) -> dict[str, Tensor]:
    """Batch entries of ``count`` images under one prompt or label; None: the empty text, no class.

    They must have passed ``check_conditions``.
    """
    batch = {}
    for part in session.model.conditioners:
        if part.key in given:
            continue
        if isinstance(part, ClassLabel):
            batch[part.key] = torch.tensor([part.null_index if label is None else label] * count)
        else:
            batch[part.key] = part.tokenizer([prompt or ""] * count)
    return session.to_device(batch)


def common_multiple(session: SamplingSession, factor: int) -> int:
    """As ``multiple_of``, and a multiple of another factor, too."""
    return math.lcm(multiple_of(session), factor)


def on_cpu(images: Tensor) -> Tensor:
    """Images (B, C, H, W) as ``generate`` takes them: float32 in [-1, 1]."""
    return images.clamp(-1, 1).float().cpu()
