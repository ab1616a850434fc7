"""Write synthetic scenes as files, to try the recipes of configs/data without a download."""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from ldm.cli.app import say
from ldm.cli.commands.data.write_scenes import FACTOR, RECORD
from ldm.data.inpainting.masks import lama_masks
from ldm.data.scenes.captions import CLASS_NAMES
from ldm.data.scenes.dataset import SceneDataset
from ldm.data.super_resolution.bicubic import Bicubic
from ldm.files import write_atomically, write_text
from ldm.locks import sole_writer
from ldm.visualization.images import save_png

HELD_OUT = 20
"""Every so many scenes one is in validation.txt."""
IN_TABLES = ("caption", "class_label", "boxes", "box_labels")

Item = dict[str, Any]
Named = Sequence[tuple[str, Item]]


def run(arguments: argparse.Namespace) -> None:
    """Write scenes, then the tables that name them."""
    scenes = SceneDataset(
        arguments.size, arguments.num, arguments.seed, arguments.split, arguments.num_objects
    )
    with sole_writer(arguments.out, first=True):
        _write_all(scenes, arguments)


def _write_all(scenes: SceneDataset, arguments: argparse.Namespace) -> None:
    write_text(arguments.out / RECORD, json.dumps(arguments.settings) + "\n")
    named = []
    for k in tqdm(range(arguments.num), desc="scenes", unit="scene", dynamic_ncols=True):
        item = scenes[k]
        name = f"{k:05d}"
        if arguments.classes:
            label = item["class_label"]
            name = f"{label:02d}-{CLASS_NAMES[label].replace(' ', '-')}/{name}"
        _write_pictures(arguments.out, name, item, np.random.default_rng((arguments.seed, k)))
        named.append((name, {key: item[key] for key in IN_TABLES}))
    _write_captions(arguments.out / "images", named, arguments.captions)
    _write_layouts(arguments.out / "layouts.json", named)
    for part in ("train", "validation"):
        _write_list(arguments.out / f"{part}.txt", named, part == "validation")
    say(f"{arguments.num} scenes in {arguments.out}; --help says what reads them")
    if arguments.classes:
        present = len({item["class_label"] for _, item in named})
        say(f"{present} class folders: num_classes={present}")


def _write_pictures(out: Path, name: str, item: Item, generator: np.random.Generator) -> None:
    """Image, map, mask and small image of a scene, those that are not there."""
    image = item["image"]
    height, width = image.shape[-2:]
    hole = lama_masks("thick-256")(height, width, generator)

    def save(folder: str, array: np.ndarray) -> None:
        path = out / folder / f"{name}.png"
        if not path.is_file():
            picture = Image.fromarray(array.astype(np.uint8))
            write_atomically(path, lambda file: picture.save(file, format="PNG"))

    for folder, shown in (("images", image), ("lr", Bicubic(FACTOR)(image, generator))):
        if not (out / folder / f"{name}.png").is_file():
            save_png(shown, out / folder / f"{name}.png")
    save("maps", item["segmentation"].numpy())
    save("masks", hole * 255)


def _write_captions(images: Path, named: Named, kind: str) -> None:
    pairs = [(f"{name}.png", item["caption"]) for name, item in named]
    if kind == "txt":
        for file, text in pairs:
            write_text((images / file).with_suffix(".txt"), text + "\n")
    elif kind != "none":
        name, write = _TABLES[kind]
        write_text(images / name, write(pairs))


def _lines(pairs: Sequence[tuple[str, str]]) -> str:
    rows = (json.dumps({"file_name": file, "text": text}) for file, text in pairs)
    return "".join(row + "\n" for row in rows)


def _csv(pairs: Sequence[tuple[str, str]]) -> str:
    table = io.StringIO(newline="")
    csv.writer(table).writerows([("file_name", "text"), *pairs])
    return table.getvalue()


_TABLES: dict[str, tuple[str, Callable[[Sequence[tuple[str, str]]], str]]] = {
    "metadata": ("metadata.jsonl", _lines),
    "json": ("captions.json", lambda pairs: json.dumps(dict(pairs), indent=1)),
    "csv": ("captions.csv", _csv),
}


def _write_layouts(path: Path, named: Named) -> None:
    layouts = []
    for name, item in named:
        pairs = zip(item["box_labels"].tolist(), item["boxes"].tolist(), strict=True)
        objects = [{"class": CLASS_NAMES[k], "box": box} for k, box in pairs if k >= 0]
        layouts.append(json.dumps({"name": f"{name}.png", "objects": objects}))
    rows = ",\n  ".join(layouts)
    classes = json.dumps(CLASS_NAMES)
    write_text(path, f'{{"classes": {classes},\n "layouts": [\n  {rows}\n ]}}\n')


def _write_list(path: Path, named: Named, held_out: bool) -> None:
    rows = [
        f"images/{name}.png {item['class_label']}\n"
        for k, (name, item) in enumerate(named)
        if (k % HELD_OUT == 1) == held_out
    ]
    write_text(path, "".join(rows))
