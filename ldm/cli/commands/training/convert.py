"""Convert checkpoints between this library, the original code (CompVis) and diffusers.

Examples:
  python scripts/convert.py runs/ae --to diffusers --out vae
  python scripts/convert.py runs/ldm --to native --out release --dtype float16
  python scripts/convert.py runs/ldm --to diffusers --out pipeline
  python scripts/convert.py runs/ldm --to diffusers --part denoiser --out unet
  python scripts/convert.py some/vae --to compvis --out kl-f8                 from diffusers
  python scripts/convert.py sd-v1.ckpt --config kl-f8.yaml --to diffusers --out vae
  python scripts/convert.py vqgan.ckpt --config vqgan.yaml --to native --out vqgan

SOURCE is a run, a folder that this script wrote, one of diffusers (a network, or a pipeline), a
published one with config.yaml and model.ckpt, or any checkpoint file together with --config, which
names a config of this library or of the original code. Averaged weights (EMA) are taken where the
source has them.

OUT is a new folder. In format
  native      it gets config.yaml and model.safetensors
  compvis     model.ckpt, and for an autoencoder config.yaml of the original code
  diffusers   config.json and diffusion_pytorch_model.safetensors of an autoencoder or a UNet;
              of a whole model a folder for StableDiffusionPipeline (text through CLIP) or
              LDMPipeline (no conditions); of other models only --part autoencoder or denoiser

What was written is read back, and compared with the source, before OUT gets its name.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ldm.cli.options.common import new_parser
from ldm.cli.options.configs import read_config
from ldm.cli.options.model import add_trust_option
from ldm.config.trust import mark_if_beside
from ldm.errors import UserError

FORMATS = ("native", "compvis", "diffusers")
"""Of ``ldm.export.FORMATS``."""
PARTS = ("autoencoder", "denoiser")
"""Of ``ldm.export.PARTS``."""
DTYPES = ("float32", "float16", "bfloat16")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of the program; ``config`` is the configuration that --config names, or None."""
    options = _parser().parse_args(arguments)
    source = Path(options.source)
    if not source.exists():
        missing = "checkpoint file" if source.suffix else "run folder or config; train it first"
        raise UserError(f"{source}: no such {missing}")
    if options.scale_factor is not None and options.to != "diffusers":
        raise UserError("--scale-factor stands in config.json of diffusers only; leave it out")
    if options.part == "denoiser" and options.to == "compvis":
        raise UserError("--part denoiser: compvis has no such files; choose native or diffusers")
    if options.config:
        if source.is_dir() or options.checkpoint:
            raise UserError(
                "--config goes with a checkpoint file as SOURCE, and without --checkpoint"
            )
        files = options.config
        options.config = read_config(files, complete=False)
        mark_if_beside(options.config, files, options.trust, source)
    return options


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("convert", __doc__)
    parser.add_argument("source", metavar="SOURCE", help="run, folder or checkpoint file")
    parser.add_argument("--to", choices=FORMATS, required=True, help="format to write")
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument(
        "--config",
        nargs="+",
        metavar="YAML",
        help="for a checkpoint file: its config, then key=value overrides",
    )
    parser.add_argument("--checkpoint", help="of a run: last (default), best, or a file")
    parser.add_argument(
        "--part",
        choices=["all", *PARTS],
        default="all",
        help="of a latent diffusion model: all of it (default), its first stage, or its UNet",
    )
    parser.add_argument("--no-ema", action="store_true", help="the weights before averaging")
    parser.add_argument(
        "--dtype", choices=list(DTYPES), default="float32", help="of the parameters written"
    )
    parser.add_argument(
        "--scale-factor",
        type=_positive,
        metavar="X",
        help="scaling_factor of diffusers, by which a diffusion model multiplies the latents "
        "(default: the source's; 1 if it has none)",
    )
    add_trust_option(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier OUT")
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("expected a positive number")
    return value
