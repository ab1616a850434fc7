"""Fill holes in images: with an inpainting model, or with any other one.

Examples:
  python scripts/inpaint.py runs/inpainting photos/                 NAME.png and NAME_mask.png
  python scripts/inpaint.py runs/mine photos/ --prompt "a red circle" --guidance 3 --eta 1
  python scripts/inpaint.py runs/inpainting photos/ --per-image 4 --no-paste

The folder holds images (png, jpg, webp) and for each a mask of its size, NAME_mask.png (or NAME.png
in the folder --masks), white where the image is to be filled in. A model that was trained for it
(configs/inpainting) is shown the masked image and the mask. Any other model is made to fit: at
every step what is known is put back at the noise level of that step; --eta 1 then fits better than
0. Known pixels are pasted back unchanged; --seamless hides the border where the filling is a little
lighter or of another tint; --no-paste shows what the model makes of the known pixels.

Images may have any size. Writes OUT/images/NAME.png (NAME_0.png, ... with --per-image),
OUT/inpainted.png (a row per image: itself, the hole, the results), OUT/grid.png, OUT/samples.json.
docs/image-to-image.md says more.
Pairs that cannot be read are named and left out; the exit code is then 4, and 2 if none
can be read.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ldm.cli.options.common import check_at_least
from ldm.cli.options.images import add_most_pixels
from ldm.cli.options.sampling import parse_sampling, sampling_parser
from ldm.errors import UserError


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of the program."""
    options = parse_sampling(_parser(), arguments)
    check_at_least(options, 1, "per_image")
    if options.seamless and options.no_paste:
        raise UserError("--seamless has no effect with --no-paste: give one of them")
    if not options.folder.is_dir():
        raise UserError(f"{options.folder}: no such folder")
    if options.masks is not None and not options.masks.is_dir():
        raise UserError(f"--masks {options.masks}: no such folder")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = sampling_parser("inpaint", __doc__, size=False)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="NAME.png, NAME_mask.png, ...")
    parser.add_argument(
        "--masks",
        type=Path,
        metavar="DIR",
        help="folder with the mask of each image under its name (default: NAME_mask.png beside it)",
    )
    parser.add_argument("--prompt", help="what to fill in, for text models")
    parser.add_argument("--label", type=int, help="what to fill in, for models with classes")
    add_most_pixels(parser)
    parser.add_argument("--per-image", type=int, default=1, help="results an image (default: 1)")
    parser.add_argument(
        "--seamless",
        action="store_true",
        help="shift the filling so that it meets the known pixels at the border of the hole",
    )
    parser.add_argument(
        "--no-paste", action="store_true", help="leave known pixels as the model makes them"
    )
    return parser
