"""A picture of rows of images with words, such as conditions beside the samples for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ldm.data.image_io import read_image
from ldm.errors import DataError
from ldm.files import shown, write_atomically

SMALLEST, LARGEST = 112, 512
"""Longer side of a cell in pixels: small images are enlarged to be seen, large ones shrunk."""
WIDEST = 4096
GAP = 6
LINE, FONT = 17, 12
INK, PAPER = (20, 20, 20), (255, 255, 255)


@dataclass(frozen=True)
class Cell:
    """An image and a line below it; without an image, words in its place.

    Attributes:
        image: (3, H, W) or (1, H, W) in [-1, 1], or a file; one that cannot be read is none.
        text: may be long where there is no image.
    """

    image: Tensor | Path | None = None
    text: str = ""


@dataclass(frozen=True)
class Row:
    """A row of cells with a title above it."""

    title: str
    cells: Sequence[Cell]


def save_rows(rows: Sequence[Row], out: Path, heads: Sequence[str] = ()) -> None:
    """Write rows of cells as one PNG; all cells get the size of the largest image.

    Args:
        rows: from top to bottom.
        out: the file.
        heads: what stands above the columns, of up to two lines.
    """
    pictures = [[_picture(cell) for cell in row.cells] for row in rows]
    width, height = _cell_size(pictures)
    captions = [any(c.text and c.image is not None for c in row.cells) for row in rows]
    lines = 2 * bool(heads) + sum(captions) + sum(bool(row.title) for row in rows)
    columns = max(len(row.cells) for row in rows)
    size = columns * (width + GAP) + GAP, len(rows) * (height + GAP) + lines * LINE + GAP
    sheet = Image.new("RGB", size, PAPER)
    font = ImageFont.load_default(FONT)
    draw = ImageDraw.Draw(sheet)
    y = GAP
    for column, head in enumerate(heads):
        fitted = "\n".join(_fit(line, width, font) for line in head.splitlines()[:2])
        draw.multiline_text((GAP + column * (width + GAP), y), fitted, INK, font)
    y += 2 * LINE * bool(heads)
    for row, images, caption in zip(rows, pictures, captions, strict=True):
        if row.title:
            draw.text((GAP, y), _fit(row.title, sheet.width - 2 * GAP, font), INK, font)
            y += LINE
        for column, (cell, image) in enumerate(zip(row.cells, images, strict=True)):
            x = GAP + column * (width + GAP)
            if image is None:
                words = _wrap(cell.text, width, height // LINE, font)
                draw.multiline_text((x, y), words, INK, font)
                continue
            sheet.paste(_scaled(image, width, height), (x, y))
            draw.text((x, y + height + 1), _fit(cell.text, width, font), INK, font)
        y += height + GAP + LINE * caption
    write_atomically(out, lambda file: sheet.save(file, format="PNG"))


def _picture(cell: Cell) -> Image.Image | None:
    if cell.image is None:
        return None
    if isinstance(cell.image, Path):
        try:
            return read_image(cell.image)[0]
        except DataError:
            return None  # its name stands in its place
    values = (cell.image.float().clamp(-1, 1) + 1) * 127.5
    pixels = values.expand(3, -1, -1).permute(1, 2, 0).round().numpy().astype(np.uint8)
    return Image.fromarray(pixels)


def _cell_size(pictures: Sequence[Sequence[Image.Image | None]]) -> tuple[int, int]:
    sizes = [picture.size for row in pictures for picture in row if picture is not None]
    width, height = (max((size[i] for size in sizes), default=SMALLEST) for i in (0, 1))
    longest = max(width, height)
    scale = min(max(1.0, -(-SMALLEST // longest)), LARGEST / longest)
    widest = WIDEST // max(len(row) for row in pictures) - GAP
    scale = min(scale, widest / width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _scaled(image: Image.Image, width: int, height: int) -> Image.Image:
    """Fitted into a cell; whole pixels are repeated where it is enlarged."""
    scale = min(width / image.width, height / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    if size == image.size:
        return image
    return image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)


def _fit(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    short = shown(text[: 4 * width])
    if len(text) <= 4 * width and font.getlength(short) <= width:
        return short
    while short and font.getlength(short + "…") > width:
        short = short[:-1]
    return short + "…"


def _wrap(
    text: str, width: int, lines: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> str:
    wrapped = [""]
    for word in text[: 4 * width * lines].split():
        longer = f"{wrapped[-1]} {word}".strip()
        if wrapped[-1] and font.getlength(longer) > width:
            wrapped.append(word)
        else:
            wrapped[-1] = longer
    return "\n".join(_fit(line, width, font) for line in wrapped[:lines])
