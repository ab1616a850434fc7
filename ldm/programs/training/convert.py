"""Convert checkpoints between this library, the original code (CompVis) and diffusers."""

from __future__ import annotations

import argparse
import contextlib
import copy
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import nn

from ldm.checkpoint import SUFFIXES
from ldm.cli.app import say
from ldm.cli.model import say_weights
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.errors import ConfigError, UserError
from ldm.export import (
    FILES,
    differences,
    export,
    part_of,
    read_back,
    round_parameters,
)
from ldm.files import TEMPORARY
from ldm.load.model import inline_pretrained, locate
from ldm.locks import sole_writer

_NEW, _OLD = "new", "old"
_LONGEST = 200
"""Bytes of the name of a folder that its temporary neighbour keeps."""
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
TOLERANCE = 1e-4


def run(arguments: argparse.Namespace) -> None:
    """Read a model, write it in another format and prove that it is the same."""
    out = Path(os.path.abspath(arguments.out))
    _check_out(out, Path(arguments.source), arguments.overwrite)
    model, config = _source(arguments)
    if arguments.part != "all":
        model, config = part_of(model, config, arguments.part)
    whole = isinstance(model, LatentDiffusion)
    if whole and arguments.scale_factor is not None:
        raise UserError("--scale-factor: a whole model has its own; leave it out")
    factor = arguments.scale_factor or config.get("scale_factor") or 1.0

    with _beside(out) as new:
        _check_out(out, Path(arguments.source), arguments.overwrite)  # others may have been faster
        report = _write(model, config, new, arguments.to, factor, DTYPES[arguments.dtype])
        _replace(out, new)
    count = sum(p.numel() for p in model.parameters())
    say(f"{out}: {type(model).__name__}, {count / 1e6:.3f} M parameters, {arguments.dtype}")
    say(report)
    if arguments.to == "diffusers" and hasattr(model, "encode") and not whole:
        say(f"  scaling_factor {factor:g} in config.json (--scale-factor X changes it)")
    elif arguments.to == "compvis" and whole:
        say("  without config.yaml: use the config of the original code that fits the source")


@contextlib.contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """A new folder that may take the name ``out`` once it is complete; one process has it.

    What a call that was killed left there is removed, and its earlier ``out`` gets its name back.
    """
    place = out.with_name(os.fsdecode(os.fsencode(f".{out.name}")[:_LONGEST]) + TEMPORARY)
    with sole_writer(place, True, called=out):
        _clear(place, out)
        try:
            yield place / _NEW
        finally:
            _clear(place, out)
    with contextlib.suppress(OSError):
        place.rmdir()


def _clear(place: Path, out: Path) -> None:
    if (place / _OLD).is_dir() and not out.exists():
        os.replace(place / _OLD, out)
    for name in (_NEW, _OLD):
        shutil.rmtree(place / name, ignore_errors=True)


def _check_out(out: Path, source: Path, overwrite: bool) -> None:
    if out.suffix in SUFFIXES:
        raise UserError(f"--out {out}: name a folder, not a file")
    if out.resolve() in (source.resolve(), source.resolve().parent):
        raise UserError(f"--out {out} is where the source lies; name another folder")
    if not out.exists():
        return
    names = sorted(path.name for path in out.iterdir()) if out.is_dir() else [out.name]
    others = [name for name in names if name not in FILES]
    if others:
        raise UserError(f"--out {out} is there already, with {others[0]} in it; name a new folder")
    if names and not overwrite:
        raise UserError(f"--out {out} is there already; name another folder or give --overwrite")


def _source(arguments: argparse.Namespace) -> tuple[nn.Module, DictConfig]:
    ema, trust = not arguments.no_ema, arguments.trust
    if arguments.config is None:
        source = locate(arguments.source, arguments.checkpoint, trust=trust)
        config = inline_pretrained(source.config(), trust)
    else:
        config = inline_pretrained(arguments.config, trust)
        source = locate(config, arguments.source, trust=trust)
    model = source.model(ema)
    say_weights(source)
    return model, config


def _write(
    model: nn.Module,
    config: DictConfig,
    folder: Path,
    format: str,
    factor: float,
    dtype: torch.dtype,
) -> str:
    """Write the files, compare what they hold with the model and say how it differs."""
    rounded = model
    if dtype != torch.float32:
        rounded = copy.deepcopy(model)
        round_parameters(rounded, dtype)
    try:
        export(rounded, config, folder, format, factor, dtype)
    except ConfigError as error:
        if format != "diffusers" or not isinstance(rounded, LatentDiffusion):
            raise
        raise UserError(f"{error} (--part autoencoder, --part denoiser)") from error
    written = differences(rounded, read_back(folder, config))
    if not all(value <= TOLERANCE for value in written.values()):
        raise UserError(
            f"the {format} files do not hold the same model ({_listed(written)}); nothing was kept"
        )
    report = f"  read back, at most: {_listed(written)}"
    if rounded is not model:
        report += f"\n  by rounding, at most: {_listed(differences(model, rounded))}"
    return report


def _listed(values: dict[str, float]) -> str:
    return ", ".join(f"{name} differ by {value:.2g}" for name, value in values.items())


def _replace(out: Path, new: Path) -> None:
    """Let ``new`` become ``out``; an earlier ``out`` goes last."""
    if out.exists():
        os.replace(out, new.with_name(_OLD))
    os.replace(new, out)
