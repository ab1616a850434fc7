r"""Make images from text with a text-conditional latent diffusion model.

Examples:
  python scripts/txt2img.py runs/mine --prompt "a red circle" --guidance 3
  python scripts/txt2img.py runs/mine --prompts prompts.txt --per-prompt 8 --out pictures
  python scripts/txt2img.py sd-v1-4.ckpt --config v1-inference.yaml --size 512 512 \
      --prompt "a lighthouse" --negative-prompt "fog" --guidance 7.5 --sampler dpm++ --steps 25
  torchrun --standalone --nproc-per-node 8 scripts/txt2img.py runs/mine --prompts captions.txt

Writes OUT/images/*.png, OUT/grid.png (a row per prompt) and OUT/samples.json, which tells how to
make them again. A call that was killed is repeated as it was: it goes on where it stopped.
docs/sampling.md says more.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ldm.cli.options.common import check_at_least
from ldm.cli.options.sampling import (
    add_prompt_options,
    parse_sampling,
    read_prompts,
    sampling_parser,
)
from ldm.errors import UserError


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of the program; ``prompt`` are all prompts, those of the file too."""
    options = parse_sampling(_parser(), arguments)
    check_at_least(options, 1, "per_prompt", "validation_captions", "train_captions")
    if options.negative_prompt is not None and options.guidance == 1:
        raise UserError("--negative-prompt has no effect without --guidance above 1, e.g. 5")
    options.prompt = read_prompts(options)
    of_data = (options.validation_captions, options.train_captions)
    if not options.prompt and of_data == (None, None):
        raise UserError('no prompts: give --prompt "...", --prompts FILE, --validation-captions N')
    return options


def _parser() -> argparse.ArgumentParser:
    parser = sampling_parser("txt2img", __doc__)
    add_prompt_options(parser)
    parser.add_argument(
        "--validation-captions",
        type=int,
        metavar="N",
        help="the captions of the first N images of the run's validation data; samples.json keeps "
        "their classes too",
    )
    parser.add_argument(
        "--train-captions",
        type=int,
        metavar="N",
        help="the same of N images that are spread evenly over the run's training data",
    )
    parser.add_argument("--per-prompt", type=int, default=4, help="images a prompt (default: 4)")
    parser.add_argument(
        "--negative-prompt",
        metavar="TEXT",
        help="what to guide away from, instead of from no text; with --guidance",
    )
    return parser
