"""Pictures that are changed: where they lie, and what goes with inverting the way to them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ldm.errors import UserError

INVERSION_SPACING = "logsnr"
"""Time steps of DDIM inversion, which needs short ones, if --spacing says nothing."""


def check_pictures(places: Sequence[Path]) -> None:
    """Refuse images, and folders of them, that are not there.

    Raises:
        UserError: it names the first.
    """
    for place in places:
        if not place.exists():
            raise UserError(f"{place}: no such image or folder")
