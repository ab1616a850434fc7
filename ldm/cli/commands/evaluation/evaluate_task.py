"""Measure whether a model does what it is conditioned on: samples for held-out conditions.

Examples:
  python scripts/evaluate_task.py runs/laptop-text
  python scripts/evaluate_task.py runs/laptop-super_resolution --features runs/laptop-features
  python scripts/evaluate_task.py runs/laptop-inpainting --baseline runs/laptop-unconditional
  python scripts/evaluate_task.py runs/laptop-retrieval \
    --clip data/scenes/clip.json --clip-weights runs/laptop-clip/weights/model.safetensors

What is measured depends on the condition:
  class, text        share of samples in which an exact judge finds what was asked for (scenes)
  layout             IoU of asked and found boxes (scenes) and, with --features, Fréchet distance
  semantic map       agreement of the map that the sample shows with the given one (scenes)
  super-resolution   PSNR, SSIM, with --lpips LPIPS and with --features Fréchet distance, beside
                     bicubic interpolation
  inpainting         error in the hole and the seam around it, beside the hole filled with the mean
                     colour and, with --baseline, an unconditional model that is given what is
                     known; with --lpips and --features these distances inside and outside the hole
  retrieval          do samples resemble their own neighbours, more than those of others?
  none               Fréchet distance, precision, recall, copies of training images (--features)

Conditions are those of --num validation items, evenly from all. Beside a number stands that of the
real images, once through the first stage: the best that the model could reach. Writes
OUT/task.json, OUT/task.png (items: the image, its conditions, the sample) and the samples; OUT is
RUN/task.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ldm.cli.options.common import check_at_least
from ldm.cli.options.evaluation import add_feature_options, check_features
from ldm.cli.options.retrieval import add_clip_options
from ldm.cli.options.sampling import check_sampling_files, parse_sampling, sampling_parser


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of the program."""
    options = parse_sampling(_parser(), arguments)
    check_at_least(options, 2, "num")
    return options


def check_files(options: argparse.Namespace) -> None:
    """Refuse a model or network that is not there, and a place where nothing can be written.

    Raises:
        UserError: it names them.
    """
    check_sampling_files(options)
    check_features(options.features)


def _parser() -> argparse.ArgumentParser:
    parser = sampling_parser("evaluate_task", __doc__, folder="task")
    parser.set_defaults(guidance=None)
    parser.add_argument(
        "--num", type=int, default=256, help="validation items, as many as there are (default: 256)"
    )
    parser.add_argument(
        "--baseline",
        metavar="RUN",
        help="inpainting: a model without conditions, given the known pixels at every step",
    )
    add_feature_options(parser)
    parser.add_argument(
        "--lpips",
        action="store_true",
        help="super-resolution, inpainting: needs the weights of VGG16",
    )
    parser.add_argument(
        "--vgg-weights",
        type=Path,
        metavar="FILE",
        help="torchvision's file, if it does not lie in PyTorch's cache; implies --lpips",
    )
    add_clip_options(parser)
    return parser
