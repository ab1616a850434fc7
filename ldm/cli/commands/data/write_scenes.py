"""Write synthetic scenes as files, to try the recipes of configs/data without a download.

Examples:
  python scripts/write_scenes.py runs/scenes --num 2000
  python scripts/write_scenes.py runs/classes --num 2000 --classes --num-objects 1 1
  python scripts/write_scenes.py runs/large --num 500 --size 256 --captions txt

What is written, and what reads it:
  images/00000.png       configs/folder/*.yaml data_root=OUT/images; with --classes in a sub-folder
                         for each class: configs/folder/class.yaml
  images/metadata.jsonl  captions, for configs/folder/text.yaml; --captions txt, json or csv write
                         them in another format that is read as well
  maps/00000.png         label maps, 0 = background, k = class k - 1: configs/data/paired-maps.yaml
                         data_root=OUT num_classes=25
  masks/00000.png        holes, white = to be filled in: configs/data/inpainting-pairs.yaml
                         data_root=OUT images_folder=images masks_folder=masks mask_ending=.png
  lr/00000.png           the images four times smaller: configs/data/super_resolution-pairs.yaml
                         data_root=OUT images_folder=images
  layouts.json           boxes: configs/data/boxes.yaml data_root=OUT num_classes=24
  train.txt, validation.txt  lists with class ids: configs/data/files.yaml data_root=OUT
                         train_list=OUT/train.txt validation_list=OUT/validation.txt labels=true

Scene k is item k of ldm.data.SceneDataset with the same options. A call that was stopped can
be repeated, also with a larger --num; a folder of other scenes is never overwritten.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ldm.cli.options.common import check_out_folder, new_parser
from ldm.errors import UserError
from ldm.files import read_json

RECORD = "scenes.json"
"""What a folder of scenes holds, in it."""
FACTOR = 4
"""How many times smaller the small images are."""
LEAST = 16
"""Pixels of a side: ``ldm.data.SceneDataset`` draws no smaller scenes."""
CAPTIONS = ("metadata", "txt", "json", "csv", "none")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of the program; ``settings`` is what decides what is written."""
    options = _parser().parse_args(arguments)
    if options.num < 2 or options.size % FACTOR:
        raise UserError(
            f"--num {options.num} must be at least 2 (one is held out) and --size "
            f"{options.size} a multiple of {FACTOR} (the small images)"
        )
    if options.size < LEAST:
        raise UserError(f"--size {options.size} is below {LEAST} pixels")
    if options.seed < 0:
        raise UserError(f"--seed {options.seed} is negative")
    low, high = options.num_objects
    if not 1 <= low <= high <= 3:
        raise UserError(f"--num-objects {low} {high} (num_objects): must be within 1 to 3")
    keys = ("size", "split", "seed", "num_objects", "captions", "classes")
    options.settings = {"num": options.num} | {key: getattr(options, key) for key in keys}
    _check_out(options.out, options.settings)
    return options


def _check_out(out: Path, settings: dict[str, Any]) -> None:
    """Refuse a folder that holds something else."""
    record = out / RECORD
    if record.is_file():
        remedy = f"delete {out} or give another OUT"
        before = read_json(record, where=f"{record} is damaged", remedy=remedy, shape={"num": int})
        different = [k for k in settings if k != "num" and before.get(k) != settings[k]]
        if different:
            raise UserError(
                f"{out} holds scenes of other settings ({', '.join(different)}; see {RECORD}): "
                "delete it or give another OUT"
            )
        if before["num"] > settings["num"]:
            raise UserError(f"{out} holds {before['num']} scenes: ask for as many or more")
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there and was not written by this script: give another OUT")
    check_out_folder("OUT", out)


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("write_scenes", __doc__)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    parser.add_argument("--num", type=int, required=True, help="number of scenes")
    parser.add_argument("--size", type=int, default=32, help="side in pixels (default: 32)")
    parser.add_argument(
        "--split",
        choices=["train", "validation", "test"],
        default="train",
        help="whose scenes (default: train)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the scenes (default: 0)")
    parser.add_argument(
        "--num-objects",
        type=int,
        nargs=2,
        default=[1, 3],
        metavar=("LOW", "HIGH"),
        help="objects of a scene (default: 1 3)",
    )
    parser.add_argument("--captions", choices=CAPTIONS, default=CAPTIONS[0], help="their format")
    parser.add_argument(
        "--classes", action="store_true", help="a sub-folder for the class of the first object"
    )
    return parser
