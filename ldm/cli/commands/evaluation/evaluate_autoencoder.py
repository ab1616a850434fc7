"""Measure a first stage: how well it reconstructs, and whether its latents suit a diffusion model.

Examples:
  python scripts/evaluate_autoencoder.py runs/mine                on the run's validation images
  python scripts/evaluate_autoencoder.py runs/mine --data photos --lpips --features inception
  python scripts/evaluate_autoencoder.py model.ckpt --config kl-f8.yaml --data photos --size 512
  python scripts/evaluate_autoencoder.py some/vae --data photos --num 5000       of diffusers
  python scripts/evaluate_autoencoder.py runs/mine --data other.yaml data_root=tiles

Reports PSNR, SSIM, LPIPS (called PSIM in the paper), rFID and R-IS, the use of the codebook, mean
and deviation of the latents, KL per dimension, the scale factor, saturated values, and the PSNR of
the images shrunk f times and enlarged again, which a first stage must beat; then a verdict: is it
ready for stage 2, and if not, why. Images are decoded from the most probable latent; the statistics
of the latents are those of samples, with a seed per image.

OUT gets metrics.json and reconstructions.png: originals, reconstructions, and their difference
(x 4). OUT is the run folder, or evaluation-NAME for anything else.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ldm.cli.options.common import check_at_least, check_out_folder, new_parser
from ldm.cli.options.evaluation import add_data_options, add_feature_options, check_features
from ldm.cli.options.model import add_source_options, check_source, is_run, result_folder


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of the program."""
    options = _parser().parse_args(arguments)
    check_at_least(options, 1, "batch_size")
    run = is_run(options.source)
    own = Path(options.source) if run else result_folder(options.source, "evaluation")
    options.out = options.out or own
    return options


def check_files(options: argparse.Namespace) -> None:
    """Refuse a model that is not there, and a place where nothing can be written.

    Raises:
        UserError: it names them.
    """
    check_source(options)
    check_features(options.features)
    check_out_folder("--out", options.out)


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("evaluate_autoencoder", __doc__)
    add_source_options(parser)
    add_data_options(parser)
    parser.add_argument("--num", type=int, help="images to use, evenly from all (default: all)")
    parser.add_argument("--batch-size", type=int, default=16, help="changes no number")
    parser.add_argument("--workers", type=int, default=0, help="processes that load images")
    parser.add_argument("--lpips", action="store_true", help="needs the weights of VGG16")
    parser.add_argument(
        "--vgg-weights",
        type=Path,
        metavar="FILE",
        help="torchvision's file, if it does not lie in PyTorch's cache; implies --lpips",
    )
    add_feature_options(parser)
    parser.add_argument(
        "--rgb",
        metavar="CHANNELS",
        help="what LPIPS and feature networks see of images without three channels: repeat (of "
        "one), or three indices such as 3,2,1",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to write")
    return parser
