"""What an image is conditioned on, as pictures: layouts, label maps, and all entries of an item.

A class has one colour, wherever it is drawn.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ldm.data.framing import to_tensor
from ldm.data.layouts.boxes import Box, BoxTokenizer
from ldm.data.layouts.reading import Layout
from ldm.files import shown
from ldm.visualization.figure import SMALLEST, Cell
from ldm.visualization.images import as_rgb

_GOLDEN = 0.61803398875  # neighbouring ids get hues far apart, however many classes there are
_SHADES = ((0.80, 0.95), (0.45, 0.80), (0.95, 0.60), (0.60, 0.45), (0.30, 0.95))
"""Saturation and value."""
_PAPER = (245, 245, 245)
NEIGHBOURS = 6
"""Pictures of what an image retrieves, at most."""
_LONGEST = 100
"""Letters of a name of a class."""
Item = dict[str, Any]


def class_colours(count: int) -> NDArray[np.uint8]:
    """RGB colours (count, 3) of the classes 0 to count - 1; none of them is grey or black."""
    colours = [
        colorsys.hsv_to_rgb(i * _GOLDEN % 1, *_SHADES[i % len(_SHADES)]) for i in range(count)
    ]
    return np.round(np.array(colours).reshape(count, 3) * 255).astype(np.uint8)


def colour_label_map(ids: Tensor, count: int) -> Tensor:
    """A label map (H, W) as an image (3, H, W) in [-1, 1]; what is no class is black."""
    colours = torch.from_numpy(np.concatenate([class_colours(count), np.zeros((1, 3), np.uint8)]))
    known = torch.where((ids >= 0) & (ids < count), ids, count)
    return colours[known].permute(2, 0, 1) / 127.5 - 1


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
        name = shown(classes[box.class_id][:_LONGEST]) if classes else str(box.class_id)
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


def item_cells(items: Sequence[Item], dataset: Any) -> list[list[Cell]]:
    """The cells of each item: the image with its class below it, the caption, the conditions.

    Args:
        items: of one data set.
        dataset: says what class ids and box tokens mean; it may wrap another one.
    """
    classes = _attribute(dataset, "classes", ())
    tokens = _attribute(dataset, "tokens", None) or _attribute(dataset, "box_tokenizer", None)
    maps = [value for item in items for value in item.values() if _is_map(value)]
    num_ids = max([int(value.max()) + 1 for value in maps], default=1)
    return [_cells(item, classes, tokens, num_ids) + _neighbours(item, dataset) for item in items]


def _attribute(dataset: Any, name: str, default: Any) -> Any:
    """An attribute of a data set, or of the one inside it."""
    if getattr(dataset, name, None):
        return getattr(dataset, name)
    inner = getattr(dataset, "images", None)
    return default if inner is None else _attribute(inner, name, default)


def _cells(item: Item, classes: Sequence[str], tokens: Any, num_ids: int) -> list[Cell]:
    height, width = item["image"].shape[-2:]
    scale = max(1, -(-2 * SMALLEST // max(height, width)))  # names of classes must be readable
    size = height * scale, width * scale
    cells = [Cell(as_rgb(item["image"][None])[0], _class(item, classes))]
    if "caption" in item:
        cells.append(Cell(text=item["caption"]))
    for key, value in item.items():
        if key == "image" or not isinstance(value, Tensor):
            continue
        if _is_map(value):
            cells.append(Cell(colour_label_map(value, num_ids), key))
        elif value.is_floating_point() and value.ndim == 3 and value.shape[0] in (1, 3):
            cells.append(Cell(value * 2 - 1 if key == "mask" else value, key))
        elif key == "box_tokens" and isinstance(tokens, BoxTokenizer):
            boxes, crop = tokens.decode(value)
            picture = draw_layout(Layout("", tuple(boxes), crop), size, classes)
            cells.append(Cell(picture, key))
        elif key == "boxes" and "box_labels" in item:
            picture = draw_layout(_layout(value, item["box_labels"]), size, classes)
            cells.append(Cell(picture, key))
    return cells


def _neighbours(item: Item, dataset: Any) -> list[Cell]:
    """The nearest images of the database, of a set that knows its files."""
    if "neighbours" not in item or not hasattr(dataset, "neighbour_files"):
        return []
    files = dataset.neighbour_files(item["neighbours"][:NEIGHBOURS])
    pictures = [file if file.is_file() else None for file in files]
    return [Cell(picture, file.name) for picture, file in zip(pictures, files, strict=True)]


def _layout(boxes: Tensor, labels: Tensor) -> Layout:
    pairs = zip(labels.tolist(), boxes.tolist(), strict=True)
    return Layout("", tuple(Box(label, *edges) for label, edges in pairs if label >= 0))


def _is_map(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 2 and value.dtype == torch.int64


def _class(item: Item, classes: Sequence[str]) -> str:
    if "class_label" not in item:
        return "image"
    label = int(item["class_label"])
    return f"{label} {classes[label]}" if 0 <= label < len(classes) else f"class {label}"
