r"""Look at the data of a config, as training would get them.

Examples:
  python scripts/show_data.py configs/folder/text.yaml data_root=photos
  python scripts/show_data.py configs/layout/coco-ldm-8.yaml data_root=coco --split validation
  python scripts/show_data.py configs/text/laion-ldm-8.yaml configs/data/laion.yaml \
    data_root=shards --workers 2 --num 32 --out laion.png
  python scripts/show_data.py configs/semantic/landscapes-256.yaml data_root=mine --epoch 3

Writes a picture of the first samples with their conditions: captions and class names as words,
layouts with their boxes, label maps in colours, masks, smaller images, neighbours. Prints type,
shape and range of every entry, how many samples were left out and why, and how many images a second
were read. Neither a model nor a run is needed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from ldm.cli.options.common import check_out_file, new_parser
from ldm.cli.options.configs import read_config
from ldm.cli.options.model import add_trust_option
from ldm.config import check, to_yaml
from ldm.errors import UserError
from ldm.experiment import data_set


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of the program.

    Returns:
        The options; ``config`` is the merged configuration.
    """
    options = _parser().parse_intermixed_args(arguments)
    if options.num < 1 or min(options.workers, options.epoch, options.seconds) < 0:
        raise UserError("--num must be at least 1, --workers, --epoch and --seconds not negative")
    check_out_file("--out", options.out)
    options.config = read_config(options.config, complete=False, trust=options.trust)
    _check_data(options.config, options.split)
    return options


def _check_data(config: DictConfig, split: str) -> None:
    if "data" not in config:
        raise UserError("this config has no data: name the file of a data set after it")
    node, path = data_set(config, split)
    text = to_yaml(config.data)
    for key in map(str, config):
        if OmegaConf.is_missing(config, key) and f"${{{key}}}" in text:
            raise UserError(f"the data set needs {key}: give {key}=VALUE after the files")
    check(node, path)


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("show_data", __doc__)
    parser.add_argument(
        "config", nargs="*", help="YAML files, merged left to right, then key=value overrides"
    )
    parser.add_argument(
        "--split", choices=["train", "validation"], default="train", help="default: train"
    )
    parser.add_argument("--num", type=int, default=16, help="samples to show (default: 16)")
    parser.add_argument("--out", type=Path, default=Path("data.png"), help="default: data.png")
    add_trust_option(parser)
    parser.add_argument("--workers", type=int, default=0, help="loader processes (default: 0)")
    parser.add_argument("--epoch", type=int, default=0, help="whose crops and order (default: 0)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of samples")
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="how long to measure the speed (default: 3)"
    )
    return parser
