"""A film that walks from one prompt, class, image or noise to the next.

Between two key frames the noise goes along a great circle, so that it stays noise, and the
condition along a straight line: a story told in prompts becomes one continuous shot.

Examples:
  python scripts/walk.py runs/mine --prompts story.txt --guidance 3 --frames 12
  python scripts/walk.py runs/mine --prompt "a red circle" --prompt "a blue cross" --loop
  python scripts/walk.py runs/mine --labels 3,5,7 --fixed-noise --film walk.mp4
  python scripts/walk.py runs/mine --seeds 0,1,2,3                   unconditional: noise only
  python scripts/walk.py runs/mine --images first.png second.png    through the noise that DDIM
                                                                    inversion finds for the images

Writes OUT/images/*.png (the frames), OUT/samples.json and the film, OUT/walk.gif if not said
otherwise; mp4 needs imageio-ffmpeg (pip install 'ldm[film]'). A killed call can be repeated.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldm.cli.options.common import check_at_least, check_out_file
from ldm.cli.options.images import INVERSION_SPACING, add_most_pixels, check_pictures
from ldm.cli.options.sampling import (
    add_prompt_options,
    parse_sampling,
    read_prompts,
    sampling_parser,
)
from ldm.errors import UserError


@dataclass(frozen=True)
class Key:
    """A key frame: what it shows, and from which noise."""

    seed: int
    prompt: str | None = None
    label: int | None = None
    image: Path | None = None

    @property
    def record(self) -> dict[str, Any]:
        """What samples.json says of it."""
        shown = {"prompt": self.prompt, "label": self.label}
        told = {key: value for key, value in shown.items() if value is not None}
        return told | ({"image": str(self.image)} if self.image else {"noise": self.seed})


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of the program; ``keys`` are the key frames, ``spacing`` is decided."""
    options = parse_sampling(_parser(), arguments)
    check_at_least(options, 1, "frames")
    check_out_file("--film", options.film)
    if options.images:
        if options.sampler != "ddim" or options.eta:
            raise UserError(
                "--images: goes with --sampler ddim and --eta 0, whose way can be inverted"
            )
        check_pictures(options.images)
        options.spacing = options.spacing or INVERSION_SPACING
    options.keys = _keys(options)
    return options


def _keys(options: argparse.Namespace) -> list[Key]:
    """The key frames of the command line.

    Raises:
        UserError: there are fewer than two, of more than one kind, or seeds that do not fit.
    """
    shown: dict[str, list[Any]] = {
        "prompt": read_prompts(options),
        "label": _numbers("--labels", options.labels),
        "image": options.images or [],
    }
    seeds = _numbers("--seeds", options.seeds)
    kinds = [kind for kind, values in shown.items() if values]
    if len(kinds) > 1:
        raise UserError("give key frames of one kind: prompts, --labels or --images")
    count = len(shown[kinds[0]]) if kinds else len(seeds)
    if count < 2:
        raise UserError(
            "a walk needs two key frames or more: --prompt twice, --prompts FILE, --labels 3,5, "
            "--images A B, or --seeds 0,1 for noise only"
        )
    if seeds and (options.fixed_noise or len(seeds) != count or options.images):
        raise UserError(f"--seeds: gives the noise of {count} key frames; not with --fixed-noise")
    if not seeds:
        seeds = [options.seed + (0 if options.fixed_noise else k) for k in range(count)]
    return [Key(seed, **{kind: shown[kind][k] for kind in kinds}) for k, seed in enumerate(seeds)]


def _numbers(option: str, text: str | None) -> list[int]:
    if text is None:
        return []
    try:
        return [int(item) for item in text.split(",")]
    except ValueError:
        raise UserError(f"{option} {text}: give whole numbers such as 3,5,7") from None


def _parser() -> argparse.ArgumentParser:
    parser = sampling_parser("walk", __doc__)
    keys = parser.add_argument_group("key frames, one kind of these")
    add_prompt_options(keys)
    keys.add_argument("--labels", help="classes, such as 3,5,7")
    keys.add_argument("--images", type=Path, nargs="+", metavar="IMAGE", help="two images or more")
    parser.add_argument(
        "--seeds",
        help="noise of the key frames, such as 4,8,15 (default: --seed and its followers)",
    )
    parser.add_argument(
        "--fixed-noise", action="store_true", help="one noise for all: only the condition changes"
    )
    parser.add_argument(
        "--frames", type=int, default=12, help="from one key frame to the next (default: 12)"
    )
    add_most_pixels(parser)
    parser.add_argument("--loop", action="store_true", help="end where it began")
    parser.add_argument("--fps", type=float, default=12.0, help="frames per second (default: 12)")
    parser.add_argument("--film", type=Path, help=".gif or .mp4 (default: OUT/walk.gif)")
    return parser
