r"""Change images with a latent diffusion model: into variations, or towards a prompt or class.

Examples:
  python scripts/img2img.py runs/mine photo.png --prompt "a red circle" --guidance 3
  python scripts/img2img.py runs/mine photos/ --strength 0.3 --per-image 4 --out variations
  python scripts/img2img.py runs/mine photo.png --method inversion \
      --source-prompt "a blue square" --prompt "a red square" --guidance 2
  python scripts/img2img.py runs/mine photo.png --strength 1 --guide-image layout.png \
      --guide-scale 0.3

--method sdedit (default) noises the image and denoises it again; --strength is the share of the
steps that are made, rounded down to whole steps: little changes little, and only 1 forgets the
image. --method inversion seeks the noise that DDIM turns into the image under the source prompt or
label, and denoises it under the other.
--guide-image pulls every result towards the coarse structure of another picture.

Images may have any size. Writes OUT/images/NAME.png (NAME_0.png, ... with --per-image),
OUT/edited.png (a row per image: itself, then the results), OUT/grid.png and OUT/samples.json.
docs/image-to-image.md says more.
Images that cannot be read are named and left out; the exit code is then 4, and 2 if none
can be read.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ldm.cli.options.common import check_at_least, check_file, check_side_lengths
from ldm.cli.options.images import INVERSION_SPACING, add_most_pixels, check_pictures
from ldm.cli.options.sampling import parse_sampling, sampling_parser
from ldm.errors import UserError

STRENGTH = {"sdedit": 0.6, "inversion": 1.0}
"""Default of --strength by --method."""
GUIDE_FACTOR = 8


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of the program; ``strength``, ``spacing`` and ``guide_factor`` are decided."""
    options = parse_sampling(_parser(), arguments)
    check_pictures(options.images)
    check_at_least(options, 1, "per_image", "guide_factor")
    check_side_lengths("--size", options.frame)
    if options.strength is None:
        options.strength = STRENGTH[options.method]
    if not 0 < options.strength <= 1:
        raise UserError(f"--strength {options.strength:g}: must be above 0 and at most 1")
    if options.method == "inversion":
        _check_inversion(options)
    elif options.source_prompt is not None or options.source_label is not None:
        raise UserError("--source-prompt and --source-label go with --method inversion")
    if options.guidance != 1 and options.prompt is None and options.label is None:
        raise UserError(f"--guidance {options.guidance:g} has no effect: give --prompt or --label")
    if (options.guide_image is None) != (options.guide_scale is None):
        raise UserError("--guide-image and --guide-scale go together: give both or none")
    if options.guide_image is None and options.guide_factor is not None:
        raise UserError(f"--guide-factor {options.guide_factor} goes with --guide-image")
    check_file("--guide-image", options.guide_image)
    options.guide_factor = options.guide_factor or GUIDE_FACTOR
    return options


def _check_inversion(options: argparse.Namespace) -> None:
    if options.sampler != "ddim" or options.eta:
        raise UserError("--method inversion goes with --sampler ddim and --eta 0 only")
    if options.per_image > 1:
        raise UserError(
            f"--per-image {options.per_image}: inversion is deterministic, all would be the same"
        )
    options.spacing = options.spacing or INVERSION_SPACING


def _parser() -> argparse.ArgumentParser:
    parser = sampling_parser("img2img", __doc__, size=False)
    parser.add_argument(
        "images", nargs="+", type=Path, metavar="IMAGE_OR_FOLDER", help="what to change"
    )
    parser.add_argument("--method", choices=list(STRENGTH), default="sdedit", help="see above")
    parser.add_argument(
        "--strength",
        type=float,
        help="share of the steps that are made, above 0 to 1 (default: 0.6; inversion: 1)",
    )
    parser.add_argument("--prompt", help="what to make of the images, for text models")
    parser.add_argument("--label", type=int, help="what to make of them, for models with classes")
    parser.add_argument(
        "--source-prompt", metavar="PROMPT", help="what the images show, for --method inversion"
    )
    parser.add_argument("--source-label", type=int, metavar="LABEL", help="as --source-prompt")
    add_most_pixels(parser)
    parser.add_argument("--per-image", type=int, default=1, help="results an image (default: 1)")
    parser.add_argument(
        "--size",
        dest="frame",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="resize and centre-crop the images first (default: as they are)",
    )
    parser.add_argument("--guide-image", type=Path, metavar="FILE", help="picture to resemble")
    parser.add_argument(
        "--guide-scale", type=float, metavar="S", help="how much; try 0.1 to 1 (with --guide-image)"
    )
    parser.add_argument(
        "--guide-factor",
        type=int,
        metavar="N",
        help=f"compare them when shrunk by this factor (default: {GUIDE_FACTOR})",
    )
    return parser
