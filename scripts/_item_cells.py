"""The pictures of an item of a data set: the image and all that it is conditioned on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from _sheet import SMALLEST, Cell
from torch import Tensor

from ldm.data.box_drawing import draw_layout
from ldm.data.box_json import Layout
from ldm.data.box_tokens import Box, BoxTokenizer
from ldm.data.label_maps import colour_label_map
from ldm.evaluation.pictures import as_rgb

Item = dict[str, Any]

NEIGHBOURS = 6
"""Pictures of what an image retrieves, at most."""


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
    return f"{label} {classes[label]}" if label < len(classes) else f"class {label}"
