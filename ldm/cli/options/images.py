"""Pictures that are changed: where they lie, and what goes with inverting the way to them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ldm.errors import UserError

INVERSION_SPACING = "logsnr"
"""Time steps of DDIM inversion, which needs short ones, if --spacing says nothing."""


def add_most_pixels(parser: argparse.ArgumentParser) -> None:
    """The option that allows larger images; ``ldm.cli.app`` applies it."""
    parser.add_argument(
        "--most-pixels",
        type=int,
        metavar="N",
        help="largest image that is decoded, width times height (default: 128000000)",
    )


def check_pictures(places: Sequence[Path]) -> None:
    """Refuse images, and folders of them, that are not there.

    Raises:
        UserError: it names the first.
    """
    for place in places:
        if not place.exists():
            raise UserError(f"{place}: no such image or folder")
