"""The laptop toy: diffusion of points in the plane, trained and filmed in two minutes on a CPU.

Every sample is a single point; the data are the points inside two silhouettes, a cat and a rocket,
or inside a picture of yours. Noise schedule, prediction, loss, guidance, samplers and training are
those of images: they do not know what a sample is.

Examples:
  python scripts/toy.py                                  a cat and a rocket
  python scripts/toy.py --image logo.png --out runs/logo a dark shape on a light ground, or on none
  python scripts/toy.py --sampler ddpm                   another film of the trained model
  python scripts/toy.py --film runs/toy/toy.mp4 --set trainer.max_steps=6000 --out runs/long

Writes OUT/animation.gif (points on their way from noise to the shapes), OUT/process.png (forward
and reverse process) and prints how many points lie in the shapes and how much of them is covered.
OUT is a run folder like any other; a finished one is not trained again. The same training by hand:
  python scripts/train.py configs/toy/silhouettes.yaml
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from ldm.cli.options.common import check_out_file, check_out_folder, new_parser
from ldm.cli.options.configs import is_override
from ldm.cli.options.model import add_device_option
from ldm.cli.options.samplers import add_sampler_options, check_sampler_options
from ldm.config import load_config
from ldm.errors import UserError
from ldm.experiment import check_experiment
from ldm.places import configs_folder

CONFIGS = configs_folder() / "toy"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of the program; ``config`` is what is trained, ``film`` the file to write."""
    options = _parser().parse_args(arguments)
    check_out_file("--film", options.film)
    check_out_folder("--out", options.out)
    options.film = options.film or options.out / "animation.gif"
    if options.points < 100:
        raise UserError(f"--points {options.points}: give at least 100, to see a shape")
    check_sampler_options(options)
    options.config = _config(options)
    check_experiment(options.config)
    return options


def _config(options: argparse.Namespace) -> DictConfig:
    wrong = [item for item in options.set if not is_override(item)]
    if wrong:
        raise UserError(f"--set {wrong[0]}: give KEY=VALUE, e.g. trainer.max_steps=6000")
    if options.image is None:
        return load_config(CONFIGS / "silhouettes.yaml", overrides=options.set)
    if not options.image.is_file():
        raise UserError(f"{options.image}: no image file")
    picture = f"picture={options.image.resolve()}"
    return load_config(CONFIGS / "picture.yaml", overrides=[picture, *options.set])


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("toy", __doc__)
    parser.add_argument("--image", type=Path, help="a picture of yours instead of the silhouettes")
    parser.add_argument("--out", type=Path, default=Path("runs/toy"), help="run folder to write")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="changes of the config"
    )
    add_sampler_options(parser)
    parser.add_argument("--guidance", type=float, default=1.0, help="towards the class; 1 = off")
    parser.add_argument("--points", type=int, default=3000, help="points a shape (default: 3000)")
    parser.add_argument("--seed", type=int, default=0, help="of the samples (default: 0)")
    parser.add_argument("--film", type=Path, help=".gif or .mp4 (default: OUT/animation.gif)")
    parser.add_argument("--fps", type=float, default=12.0, help="frames per second (default: 12)")
    add_device_option(parser)
    return parser
