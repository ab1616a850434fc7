"""Send photographs through a first stage, at full resolution and of any height and width.

Examples:
  python scripts/reconstruct.py runs/my-autoencoder photo.jpg other.png
  python scripts/reconstruct.py runs/my-autoencoder photos --max-side 1024
  python scripts/reconstruct.py model.ckpt photos --config kl-f8.yaml --out there

IMAGES are files or folders, which are read with all that is nested in them. OUT gets a PNG of the
same name for each, in pairs/ original and reconstruction side by side, and reconstructions.json
with PSNR and SSIM. What is there already, by the same weights and options, is kept. OUT is
RUN/reconstructed, or reconstructed-NAME for anything that is no run.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ldm.cli.options.common import check_at_least, new_parser
from ldm.cli.options.images import add_most_pixels, check_pictures
from ldm.cli.options.model import add_source_options
from ldm.cli.options.model import check_source as check_files

__all__ = ["check_files", "parse"]


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of the program."""
    options = _parser().parse_args(arguments)
    check_at_least(options, 1, "max_side")
    check_pictures([Path(place) for place in options.images])
    return options


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("reconstruct", __doc__)
    add_source_options(parser)
    parser.add_argument("images", nargs="+", metavar="IMAGES", help="image files and folders")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--sample", action="store_true", help="draw the latent instead of the most probable one"
    )
    parser.add_argument(
        "--max-side", type=int, metavar="PIXELS", help="shrink longer images first, to save memory"
    )
    add_most_pixels(parser)
    parser.add_argument("--overwrite", action="store_true", help="make all images again")
    return parser
