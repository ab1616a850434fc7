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
from pathlib import Path

from ldm.cli.options.sampling import sampling_parser


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of the program."""
    return _parser().parse_args(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = sampling_parser("walk", __doc__)
    keys = parser.add_argument_group("key frames, one kind of these")
    keys.add_argument("--prompt", action="append", default=[], help="a prompt; repeat for more")
    keys.add_argument("--prompts", type=Path, metavar="FILE", help="text file, a prompt a line")
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
    parser.add_argument("--loop", action="store_true", help="end where it began")
    parser.add_argument("--fps", type=float, default=12.0, help="frames per second (default: 12)")
    parser.add_argument("--film", type=Path, help=".gif or .mp4 (default: OUT/walk.gif)")
    return parser
