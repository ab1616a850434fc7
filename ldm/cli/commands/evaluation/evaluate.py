"""Measure generated images by a protocol that the report states: FID and all that goes with it.

Examples:
  python scripts/evaluate.py runs/mine/generated --preset ldm-paper
  python scripts/evaluate.py samples.npz --preset adm --real VIRTUAL_imagenet256_labeled.npz
  python scripts/evaluate.py runs/mine --preset quick --steps 50       sampled on the fly
  python scripts/evaluate.py photos/fake --real photos/real --features inception --metrics fid,kid
  python scripts/evaluate.py runs/mine/generated --preset laptop --features runs/laptop-features
  python scripts/evaluate.py runs/quickstart-text2img/prompts --judge
                                          do the images show what their prompts say? (scenes only)
  torchrun --standalone --nproc-per-node 8 scripts/evaluate.py DIR --preset ldm-paper

SOURCE, and --real, is a folder of images (nested, or of the sampling scripts), an npz of images
(arr_0) or of statistics (mu, sigma: ADM's reference batches, clean-fid's), tar shards, a YAML with
a data node (DATA.yaml, DATA.yaml#train), or a run: --real RUN is its data, SOURCE a model that is
sampled by the options of scripts/sample.py. Real images that nobody names are those of the run that
made the samples.

Presets are in configs/evaluation and explained in docs/evaluation.md. The report says what every
number was made of; scripts/compare_reports.py tells whether two may be compared. OUT is
SOURCE/metrics.json for the folders of the sampling scripts, RUN/metrics-PRESET.json for a run, else
evaluation-NAME.json here. Exit code 3: images could not be read.

Autoencoders: scripts/evaluate_autoencoder.py. Conditions other than classes:
scripts/evaluate_task.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ldm.cli.options.common import check_at_least, check_out_file, check_out_folder, new_parser
from ldm.cli.options.evaluation import (
    add_protocol_options,
    add_source_side_options,
    check_features,
    check_place,
    metric_names,
    read_preset,
)
from ldm.cli.options.images import add_most_pixels
from ldm.cli.options.model import add_source_options, check_source, is_model, is_run
from ldm.cli.options.samplers import add_sampler_options
from ldm.cli.options.sampling import (
    add_byte_option,
    add_guidance_options,
    add_memory_options,
    check_guidance,
    check_steps,
)
from ldm.errors import UserError

MODEL_OPTIONS = (
    *("checkpoint", "no_ema", "labels", "guidance", "guidance_rescale", "size", "sampler"),
    *("steps", "eta", "spacing"),
    *("precision", "tile", "tile_overlap", "decode_tile", "bytes"),
)
"""What only a model that is sampled can follow."""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of the program; those of ``MODEL_OPTIONS`` that were given as ``of_a_model``."""
    parser = _parser()
    options = parser.parse_args(arguments)
    values = {name: getattr(options, name) for name in MODEL_OPTIONS}
    options.of_a_model = {k: v for k, v in values.items() if v != parser.get_default(k)}
    check_at_least(options, 1, "batch_size")
    check_guidance(options)
    if options.metrics is not None:
        metric_names(options.metrics)
    if options.preset is not None:
        read_preset(options.preset)
    elif options.features is None and not options.judge:
        wanted = next((o for o in ("metrics", "weights", "resize") if getattr(options, o)), None)
        if wanted is not None:
            raise UserError(f"--{wanted} goes with --features or --preset")
        raise UserError(
            "nothing to measure: give --preset or --features, or --judge for synthetic scenes"
        )
    check_out_file("--out", options.out)
    check_out_file("--save-statistics", options.save_statistics)
    check_out_folder("--cache", options.cache)
    return options


def check_files(options: argparse.Namespace) -> None:
    """Refuse images that are not there.

    Raises:
        UserError: it names them.
    """
    check_place(options.source)
    check_features(options.features)
    if is_model(options):
        check_source(options)
        check_steps(options)
    if options.real is not None:
        check_place(options.real, "--real")
    if options.out is None and options.save_statistics is None:
        source = Path(options.source)
        own = (source / "samples.json").is_file() or (is_model(options) and is_run(source))
        check_out_folder("--out", source if own else Path())


def _parser() -> argparse.ArgumentParser:
    options = new_parser("evaluate", __doc__)
    add_source_options(options, "SOURCE", "generated images, or a model")
    add_source_side_options(options)
    add_protocol_options(options)
    options.add_argument(
        "--save-statistics",
        type=Path,
        metavar="FILE",
        help="only write mean and covariance of SOURCE's features (npz), for --real of later calls",
    )
    add_most_pixels(options)
    options.add_argument("--judge", action="store_true", help="check images against their prompts")
    options.add_argument("--out", type=Path, metavar="FILE", help="the report, as JSON")
    options.add_argument(
        "--batch-size", type=int, default=64, help="changes no number (default: 64)"
    )
    options.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of random choices; image k of a model is that of seed + k (default: 0)",
    )
    model = options.add_argument_group("if SOURCE is a model", "as of the sampling scripts")
    add_guidance_options(model)
    model.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="of the images")
    add_sampler_options(options)
    add_byte_option(model)
    add_memory_options(options)
    return options
