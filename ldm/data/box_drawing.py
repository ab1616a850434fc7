"""Layouts as pictures: coloured boxes with the names of their classes."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ldm.data.box_json import Layout
from ldm.data.box_tokens import Box
from ldm.data.class_colours import class_colours
from ldm.data.transforms import to_tensor

_PAPER = (245, 245, 245)


def draw_layout(layout: Layout, size: tuple[int, int], classes: Sequence[str] = ()) -> Tensor:
    """The part of a layout that is shown, as an image (3, H, W) in [-1, 1].

    Large objects are drawn first, so that small ones are not covered by their names.

    Args:
        layout: the objects and the crop.
        size: (H, W) in pixels.
        classes: names by id; else ids are written.
    """
    height, width = size
    picture = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(max(9, min(size) // 16))
    colours = class_colours(max((box.class_id for box in layout.boxes), default=0) + 1)
    for box in sorted(layout.boxes, key=_area, reverse=True):
        edges = _shown(box, layout, size)
        if edges is None:
            continue
        x0, y0, x1, y1 = edges
        colour = tuple(colours[box.class_id].tolist())
        draw.rectangle((x0, y0, x1, y1), outline=colour, width=max(1, min(size) // 96))
        name = classes[box.class_id] if classes else str(box.class_id)
        paper = draw.textbbox((x0 + 2, y0 + 1), name, font=font)
        draw.rectangle(paper, fill=_PAPER)
        draw.text((x0 + 2, y0 + 1), name, fill=tuple(part // 2 for part in colour), font=font)
    return to_tensor(picture)


def _area(box: Box) -> float:
    return (box.x1 - box.x0) * (box.y1 - box.y0)


def _shown(box: Box, layout: Layout, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """Edges in pixels of the crop, or None where the crop misses the box."""
    left, top, right, bottom = layout.crop
    x = [(min(max(edge, left), right) - left) / (right - left) for edge in (box.x0, box.x1)]
    y = [(min(max(edge, top), bottom) - top) / (bottom - top) for edge in (box.y0, box.y1)]
    if x[0] >= x[1] or y[0] >= y[1]:
        return None
    height, width = size
    x0, x1 = (round(edge * (width - 1)) for edge in x)
    y0, y1 = (round(edge * (height - 1)) for edge in y)
    return x0, y0, x1, y1
