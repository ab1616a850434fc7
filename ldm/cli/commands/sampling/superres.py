"""Enlarge images with a super-resolution model.

Examples:
  python scripts/superres.py runs/superres small.png
  python scripts/superres.py runs/superres thumbnails/ --per-image 2 --steps 100 --eta 1
  python scripts/superres.py runs/superres photo.png --tile 64 --tile-overlap 16 --decode-tile 64

The model (configs/super_resolution) is shown the image at the size of its latents, so results are
larger by the factor f of its first stage: 4 in the published ones. Images may have any size; large
ones are best denoised in tiles of the size of the training. Writes OUT/images/NAME.png
(NAME_0.png, ... with --per-image), OUT/enlarged.png (a row per image: bicubic, then the results),
OUT/grid.png and OUT/samples.json. docs/image-to-image.md says more.
Images that cannot be read are named and left out; the exit code is then 4, and 2 if none
can be read.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ldm.cli.options.common import check_at_least
from ldm.cli.options.images import add_most_pixels, check_pictures
from ldm.cli.options.sampling import parse_sampling, sampling_parser


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of the program."""
    options = parse_sampling(_parser(), arguments)
    check_at_least(options, 1, "per_image")
    check_pictures(options.images)
    return options


def _parser() -> argparse.ArgumentParser:
    parser = sampling_parser("superres", __doc__, size=False)
    parser.add_argument(
        "images", nargs="+", type=Path, metavar="IMAGE_OR_FOLDER", help="what to enlarge"
    )
    parser.add_argument("--prompt", help="what they show, for models that also take text")
    parser.add_argument("--label", type=int, help="what they show, for models with classes")
    add_most_pixels(parser)
    parser.add_argument("--per-image", type=int, default=1, help="results an image (default: 1)")
    return parser
