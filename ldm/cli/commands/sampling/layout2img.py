"""Make images of layouts: boxes with classes, read from a JSON file.

Examples:
  python scripts/layout2img.py runs/mine layouts.json --classes classes.txt
  python scripts/layout2img.py runs/mine layouts.json --per-layout 8 --steps 100 --out pictures

  layouts.json: {"classes": ["cat", "sofa"],
                 "layouts": [{"name": "evening",
                              "objects": [{"class": "cat", "box": [0.3, 0.4, 0.6, 0.8]}]}]}

A box is [left, upper, right, lower edge] as shares 0 to 1 of width and height; a class is a name or
an id. docs/task-scripts.md describes the format in full.

Writes OUT/images/NAME_0.png, ..., OUT/layouts.png (a row per layout: its boxes, then its images),
OUT/grid.png and OUT/samples.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ldm.cli.options.common import check_at_least, check_file
from ldm.cli.options.sampling import parse_sampling, sampling_parser


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of the program."""
    options = parse_sampling(_parser(), arguments)
    check_at_least(options, 1, "per_layout", "num_classes")
    check_file("layouts", options.layouts)
    check_file("--classes", options.classes)
    return options


def _parser() -> argparse.ArgumentParser:
    parser = sampling_parser("layout2img", __doc__)
    parser.add_argument("layouts", type=Path, metavar="LAYOUTS.json", help="one or several layouts")
    parser.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help="text file with the name of a class a line, in the order of the ids, all classes that "
        "the model was trained with (default: 'classes' of the JSON file)",
    )
    parser.add_argument(
        "--num-classes",
        type=int,
        metavar="N",
        help="how many classes the model was trained with (default: box_tokens.num_classes or "
        "num_classes of the config, else the number of names)",
    )
    parser.add_argument(
        "--per-layout", type=int, default=4, metavar="N", help="images a layout (default: 4)"
    )
    return parser
