"""The options that all programs of sampling have."""

from __future__ import annotations

import argparse
from pathlib import Path

from ldm.cli.options.common import new_parser
from ldm.cli.options.model import add_source_options
from ldm.cli.options.samplers import add_sampler_options

PRECISIONS = ("fp32", "bf16", "fp16")


def sampling_parser(
    program: str, description: str | None, size: bool = True, folder: str = "generated"
) -> argparse.ArgumentParser:
    """The options that all sampling scripts have.

    Args:
        program: its name.
        description: the help text.
        size: also --size.
        folder: name of the folder below a run where the script writes.
    """
    parser = new_parser(program, description)
    add_source_options(parser)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help=f"folder to write (default: RUN/{folder}, or {folder}-NAME for anything else)",
    )
    parser.set_defaults(folder_name=folder)
    add_sampler_options(parser)
    parser.add_argument(
        "--guidance", type=float, default=1.0, help="classifier-free guidance; 1 = off (default)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="image k uses seed + k, whatever else (default: 0)"
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=64,
        help="images made at once, by each process (default: 64)",
    )
    if size:
        parser.add_argument(
            "--size",
            type=int,
            nargs=2,
            metavar=("H", "W"),
            help="image size, multiples of f of the first stage (default: the config's image_size)",
        )
    add_memory_options(parser)
    return parser


def add_memory_options(parser: argparse.ArgumentParser) -> None:
    """--precision and tiles."""
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="of the denoiser (default: fp32); decoding is always fp32",
    )
    parser.add_argument(
        "--tile",
        type=int,
        metavar="N",
        help="denoise in overlapping tiles of N x N latents: for images beyond the training size",
    )
    parser.add_argument(
        "--tile-overlap",
        type=int,
        metavar="M",
        help="latents that neighbouring tiles share (default: half a tile)",
    )
    parser.add_argument(
        "--decode-tile",
        type=int,
        metavar="N",
        help="decode in overlapping tiles of N x N latents: bounded memory",
    )
