r"""Reproduce a published figure: sample and evaluate as the paper did, and show both side by side.

Examples:
  python scripts/reproduce.py                                    which figures there are
  python scripts/reproduce.py ffhq-ldm-4 --checkpoint ffhq256/model.ckpt --real ffhq.yaml#train
  python scripts/reproduce.py cin256-ldm-4-g --checkpoint cin256-v2/model.ckpt --preset adm \
      --real VIRTUAL_imagenet256_labeled.npz --weights inception.pth
  python scripts/reproduce.py cin256-ldm-8-g --checkpoint cin256.ckpt --real imagenet.yaml#train \
      sampling.classifier=runs/mine
  torchrun --standalone --nproc-per-node 8 scripts/reproduce.py ffhq-ldm-4 --checkpoint ...

A recipe of configs/evaluation/published says sampler, steps, eta, guidance, labels, number of
images, the preset of the evaluation and the published figures. The two commands that it stands for
(sample.py or another sampling script, then evaluate.py) are printed and run; --dry-run only prints
them. A call that was killed is repeated as it was: sampling goes on where it stopped.

--num and KEY=VALUE change the recipe, e.g. sampling.steps=20 for a first look. Whatever differs
from what was published is said below the figures and in OUT/reproduction.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ldm.cli.options.common import new_parser
from ldm.cli.options.evaluation import PRESETS
from ldm.cli.options.model import add_device_option, add_trust_option
from ldm.errors import UserError


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of the program."""
    options = _parser().parse_intermixed_args(arguments)
    files = (PRESETS / "published").glob("*.yaml")
    names = sorted(file.stem for file in files if not file.name.startswith("_"))
    if options.name not in (None, *names):
        raise UserError(f"{options.name}: no such recipe; there are {', '.join(names)}")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("reproduce", __doc__)
    parser.add_argument("name", nargs="?", metavar="NAME", help="a recipe; none: list them")
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE", help="change the recipe")
    parser.add_argument("--checkpoint", metavar="FILE", help="weights, or a run folder")
    parser.add_argument(
        "--config",
        nargs="+",
        metavar="YAML",
        help="of a checkpoint file, in place of the recipe's: a config, then key=value overrides",
    )
    parser.add_argument("--real", metavar="SOURCE", help="real images, as for evaluate.py")
    parser.add_argument("--preset", metavar="NAME", help="in place of the recipe's, e.g. adm")
    parser.add_argument("--num", type=int, metavar="N", help="images, fewer for a first look")
    parser.add_argument("--features", metavar="NET", help="another feature network")
    parser.add_argument(
        "--weights", action="append", default=[], metavar="[NET=]FILE", help="of a feature network"
    )
    parser.add_argument("--num-real", type=int, metavar="N", help="the first N real images")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="for features, see evaluate.py")
    parser.add_argument("--batch-size", type=int, default=64, help="(default: 64)")
    add_trust_option(parser)
    add_device_option(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="(default: reproduced-NAME)")
    parser.add_argument("--dry-run", action="store_true", help="only print the two commands")
    return parser
