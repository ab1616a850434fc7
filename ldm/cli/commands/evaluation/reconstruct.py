"""Send photographs through a first stage, at full resolution and of any height and width.

Examples:
  python scripts/reconstruct.py runs/my-autoencoder photo.jpg other.png
  python scripts/reconstruct.py runs/my-autoencoder photos --max-side 1024
  python scripts/reconstruct.py model.ckpt photos --config kl-f8.yaml --out there

IMAGES are files or folders, which are read with all that is nested in them. OUT gets a PNG of the
same name for each, in pairs/ original and reconstruction side by side, and reconstructions.json
with PSNR and SSIM. What is there already, by the same weights and options, is kept. OUT is
RUN/reconstructed, or reconstructed-NAME for anything that is no run. Images that cannot be read are
named and left out; the exit code is then 4, and 2 if none can be read.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ldm.cli.options.common import check_at_least, check_out_folder, new_parser
from ldm.cli.options.images import add_most_pixels, check_pictures
from ldm.cli.options.model import add_source_options, check_source, result_folder


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of the program."""
    options = _parser().parse_args(arguments)
    check_at_least(options, 1, "max_side")
    check_pictures([Path(place) for place in options.images])
    options.out = options.out or result_folder(options.source, "reconstructed")
    return options


def check_files(options: argparse.Namespace) -> None:
    """Refuse a model that is not there, and a place where nothing can be written.

    Raises:
        UserError: it names them.
    """
    check_source(options)
    check_out_folder("--out", options.out)


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
