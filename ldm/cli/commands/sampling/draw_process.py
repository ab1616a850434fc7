"""Draw the forward and the reverse process of a diffusion model as one picture.

Examples:
  python scripts/draw_process.py runs/mine
  python scripts/draw_process.py runs/mine --prompt "a red circle" --guidance 3 --rows 3
  python scripts/draw_process.py runs/mine --image photo.jpg --label 4 --columns 10 --sampler dpm++

Columns go from noise, left, to data, right; above them stand the time step t and the logarithm of
the signal-to-noise ratio. The first row is q(x_t | x_0) of an image: --image, else the first
validation image of the run, else a sample of the model. Then there are two rows for every sample:
its states x_t, and the estimates of x_0 that the model makes of them. All are decoded.

Conditions that are neither --prompt nor --label are those of the first validation item of the run.

Writes OUT/process.png and OUT/process.json.
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
    check_at_least(options, 1, "rows", "columns")
    check_file("--image", options.image)
    return options


def _parser() -> argparse.ArgumentParser:
    parser = sampling_parser("draw_process", __doc__, images=False)
    parser.add_argument("--image", type=Path, help="the image that disappears in noise")
    parser.add_argument("--prompt", help="of the samples, for text models")
    parser.add_argument("--label", type=int, help="of the samples, for models with classes")
    parser.add_argument(
        "--rows", type=int, default=1, metavar="N", help="samples, seeds in turn (default: 1)"
    )
    parser.add_argument("--columns", type=int, default=8, metavar="N", help="times (default: 8)")
    return parser
