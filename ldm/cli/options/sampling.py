"""The options that all programs of sampling have."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ldm.cli.options.common import (
    check_at_least,
    check_file,
    check_out_folder,
    check_side_lengths,
    new_parser,
)
from ldm.cli.options.configs import split_config
from ldm.cli.options.model import add_source_options, check_source, result_folder
from ldm.cli.options.samplers import add_sampler_options, check_sampler_options
from ldm.config import load_config
from ldm.errors import UserError
from ldm.files import read_text, reason

PRECISIONS = ("fp32", "bf16", "fp16")
BYTES = ("round", "truncate")
"""How images become 8-bit numbers, see ``ldm.visualization.images.to_bytes``."""


def sampling_parser(
    program: str,
    description: str | None,
    size: bool = True,
    folder: str = "generated",
    images: bool = True,
) -> argparse.ArgumentParser:
    """The options that all programs of sampling have.

    Args:
        program: its name.
        description: the help text.
        size: also --size.
        folder: name of the folder below a run where the program writes.
        images: it writes images one by one: also --bytes.
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
    add_guidance_options(parser)
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
    parser.set_defaults(bytes=BYTES[0])
    if images:
        add_byte_option(parser)
    add_memory_options(parser)
    return parser


def add_guidance_options(parser: argparse._ActionsContainer) -> None:
    """--guidance and --guidance-rescale."""
    parser.add_argument(
        "--guidance", type=float, default=1.0, help="classifier-free guidance; 1 = off (default)"
    )
    parser.add_argument(
        "--guidance-rescale",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="0 to 1: bring the spread of guided outputs back to that of unguided ones, against "
        "over-exposed images; 0.7 is usual with v-prediction (default: 0)",
    )


def add_byte_option(parser: argparse._ActionsContainer) -> None:
    """--bytes."""
    parser.add_argument(
        "--bytes",
        choices=BYTES,
        default="round",
        help="how values become 8-bit numbers: to the nearest (default), or without the fraction "
        "as the original code writes them, to replay published figures",
    )


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


def add_prompt_options(parser: argparse._ActionsContainer) -> None:
    """--prompt and --prompts, of which ``read_prompts`` makes one list."""
    parser.add_argument("--prompt", action="append", default=[], help="a prompt; repeat for more")
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="text file, a prompt a line")


def parse_sampling(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """The options of a parser of ``sampling_parser``, with all checks that need no model.

    Raises:
        UserError: one line that says which option cannot be followed, and why.
    """
    options = parser.parse_args(arguments)
    check_out_folder("--out", options.out)
    check_sampling_options(options)
    return options


def out_folder(options: argparse.Namespace) -> Path:
    """Where a program of sampling writes."""
    out: Path | None = options.out
    return result_folder(options.source, options.folder_name) if out is None else out


def check_sampling_files(options: argparse.Namespace) -> None:
    """Refuse a model that is not there, and a place where nothing can be written.

    Raises:
        UserError: it names them.
    """
    check_source(options)
    check_out_folder("--out", out_folder(options))
    check_steps(options)


def check_steps(options: argparse.Namespace) -> None:
    """Refuse more --steps than the model has, as far as its config says that by itself.

    Raises:
        UserError: it says how many there are.
    """
    if options.steps is None:
        return
    files, overrides = split_config(options.config or [str(Path(options.source) / "config.yaml")])
    try:
        config = load_config(*files, overrides=overrides, complete=False)
        schedule = OmegaConf.select(config, "model.params.schedule.params") or {}
        total = None if "betas" in schedule else schedule.get("timesteps")
    except (UserError, OmegaConfBaseException):
        return  # whoever builds the model says what is wrong
    if isinstance(total, int) and options.steps > total:
        raise UserError(
            f"--steps {options.steps}: cannot take {options.steps} sampling steps: choose 1 to "
            f"{total}"
        )


def check_sampling_options(options: argparse.Namespace) -> None:
    """Refuse numbers out of range and options that have no effect.

    Raises:
        UserError: it names the option.
    """
    check_at_least(options, 1, "batch_size")
    check_sampler_options(options)
    check_guidance(options)
    check_side_lengths("--size", getattr(options, "size", None))
    sizes = [size for size in (options.tile, options.decode_tile) if size is not None]
    check_at_least(options, 2, "tile", "decode_tile")
    overlap = options.tile_overlap
    if overlap is None:
        return
    if not sizes:
        raise UserError("--tile-overlap has no effect without --tile or --decode-tile")
    if not 0 <= overlap < min(sizes):
        raise UserError(f"--tile-overlap {overlap}: must be within 0 and {min(sizes) - 1}")


def check_guidance(options: argparse.Namespace) -> None:
    """Refuse a share of rescaling that is none, or has no effect.

    Raises:
        UserError: it names the option.
    """
    share = options.guidance_rescale
    if not 0 <= share <= 1:
        raise UserError(f"--guidance-rescale {share:g}: must be within 0 and 1")
    if share and options.guidance == 1:
        raise UserError("--guidance-rescale has no effect without --guidance, e.g. 7.5")


def read_prompts(options: argparse.Namespace) -> list[str]:
    """The prompts of --prompt, then the lines of --prompts that are not empty.

    Raises:
        UserError: there is no such text file, or it is empty.
    """
    path: Path | None = options.prompts
    prompts: list[str] = list(options.prompt)
    if path is None:
        return prompts
    check_file("--prompts", path, "; it should hold a prompt a line")
    try:
        lines = read_text(path).replace("\ufeff", "\n").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(
            f"--prompts {path}: not a text file ({reason(error)}): save it as UTF-8 text"
        ) from None
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise UserError(f"--prompts {path}: it holds no prompt; it should hold a prompt a line")
    return prompts + found
