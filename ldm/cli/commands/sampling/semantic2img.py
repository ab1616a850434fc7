"""Make images of semantic maps: a class id for every pixel, read from PNG or .npy files.

Examples:
  python scripts/semantic2img.py runs/mine map.png --per-map 4
  python scripts/semantic2img.py runs/mine maps/ --steps 100 --out pictures
  python scripts/semantic2img.py runs/mine wide.png --tile 64 --decode-tile 64

Maps are grey or palette PNG files whose pixels are ids, or .npy files of integers (H, W). Every
image has the size of its map, which may be larger than those of training: the sides need not be
multiples of anything, the map is continued beyond its edge and the image cut. --resize changes the
map by the nearest pixel.

Writes OUT/images/NAME_0.png, ..., OUT/maps.png (a row per map: its colours, then its images),
OUT/grid.png and OUT/samples.json.
Label maps that cannot be read are named and left out; the exit code is then 4, and 2 if none
can be read.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ldm.cli.options.common import check_at_least, check_side_lengths
from ldm.cli.options.sampling import parse_sampling, sampling_parser
from ldm.errors import UserError


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of the program."""
    options = parse_sampling(_parser(), arguments)
    check_at_least(options, 1, "per_map")
    check_side_lengths("--resize", options.resize)
    if not options.maps.exists():
        raise UserError(f"{options.maps}: no such label map or folder of them")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = sampling_parser("semantic2img", __doc__, size=False)
    parser.add_argument("maps", type=Path, metavar="MAP_OR_FOLDER", help="PNG or .npy file(s)")
    parser.add_argument(
        "--resize", type=int, nargs=2, metavar=("H", "W"), help="size of the maps (default: theirs)"
    )
    parser.add_argument(
        "--per-map", type=int, default=1, metavar="N", help="images a map (default: 1)"
    )
    return parser
