"""Sample an unconditional or class-conditional latent diffusion model.

Examples:
  python scripts/sample.py runs/mine --num-images 64
  python scripts/sample.py runs/mine --num-images 16 --labels 3,5 --guidance 2 --sampler unipc
  python scripts/sample.py model.ckpt --config cin256.yaml --size 256 256
  python scripts/sample.py runs/mine --classifier runs/my-classifier --classifier-scale 3
  torchrun --standalone --nproc-per-node 8 scripts/sample.py runs/mine --num-images 50000

Writes OUT/images/*.png, OUT/grid.png and OUT/samples.json, which tells how to make them again. A
call that was killed is repeated as it was: it goes on where it stopped. Image k is that of seed + k
whatever the number of images, processes and images at once. docs/sampling.md says more.

Models with other conditions have scripts of their own: txt2img.py, inpaint.py, superres.py,
layout2img.py, semantic2img.py, retrieve2img.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ldm.cli.options.common import check_at_least, check_out_file
from ldm.cli.options.model import add_classifier_options, check_classifier_options
from ldm.cli.options.sampling import parse_sampling, sampling_parser


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of the program."""
    options = parse_sampling(_parser(), arguments)
    check_at_least(options, 1, "num_images")
    check_classifier_options(options)
    check_out_file("--npz", options.npz)
    return options


def _parser() -> argparse.ArgumentParser:
    parser = sampling_parser("sample", __doc__)
    parser.add_argument("--num-images", type=int, default=64, help="number of images (default: 64)")
    parser.add_argument(
        "--labels",
        metavar="uniform|random|LIST",
        help="classes in turn (uniform, default; what published FIDs want), drawn at random, or a "
        "list such as 3,5, also in turn",
    )
    parser.add_argument(
        "--npz",
        type=Path,
        metavar="FILE",
        help="write all images, and the labels, to this file, too (format of ADM's evaluation)",
    )
    add_classifier_options(parser)
    return parser
