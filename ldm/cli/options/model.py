"""Which model a program works on, where it lies, and on what device."""

from __future__ import annotations

import argparse
from pathlib import Path

from ldm.cli.options.common import check_file
from ldm.cli.options.configs import split_config
from ldm.errors import UserError
from ldm.files import fitting_name

IN_RUN = ("last", "best")
"""Names of checkpoints, ``ldm.load.model.RUN``."""
WEIGHTS = (".ckpt", ".pt", ".pth", ".bin", ".safetensors")
"""``ldm.checkpoint.SUFFIXES``."""


def add_source_options(
    parser: argparse.ArgumentParser,
    name: str = "RUN_OR_CHECKPOINT",
    about: str = "run folder, folder of diffusers, or with --config a checkpoint file",
) -> None:
    """A model as first argument, called ``name`` in the help, and the options that go with it."""
    parser.add_argument("source", metavar=name, help=about)
    parser.add_argument(
        "--config",
        nargs="+",
        metavar="YAML",
        help="of a checkpoint file: its config (of this library or the original code), then "
        "key=value overrides",
    )
    parser.add_argument("--checkpoint", help="of a run: last (default), best, or a file")
    parser.add_argument("--no-ema", action="store_true", help="the weights before averaging")
    add_trust_option(parser)
    add_device_option(parser)
    parser.add_argument(
        "--compile",
        action="store_true",
        help="torch.compile: the first batch takes minutes, all others less time",
    )


def add_trust_option(parser: argparse.ArgumentParser) -> None:
    """--trust, for configs that came with weights."""
    parser.add_argument(
        "--trust",
        action="store_true",
        help="build whatever the config in a folder of weights names, code of others too: as if "
        "you ran a script of whoever made it (docs/security.md)",
    )


def add_device_option(parser: argparse.ArgumentParser) -> None:
    """--device; None, the default, is the accelerator if there is one."""
    parser.add_argument(
        "--device", help="cpu, cuda, cuda:1, mps (default: the GPU if there is one)"
    )


def check_source(options: argparse.Namespace) -> None:
    """Refuse a model that is not there, before PyTorch is imported.

    Raises:
        UserError: no such file or folder, or options that do not go with it.
    """
    source = Path(options.source)
    if not source.exists():
        raise UserError(
            f"{source}: no such run folder or checkpoint; train it first, or correct the path"
        )
    if options.config and (source.is_dir() or options.checkpoint):
        raise UserError("--config goes with a checkpoint file as first argument")
    for item in split_config(options.config or ())[0]:
        check_file("--config", Path(item))
    if options.checkpoint not in (None, *IN_RUN) and not Path(options.checkpoint).exists():
        raise UserError(f"--checkpoint {options.checkpoint}: no such checkpoint file")
    if options.checkpoint and source.is_file() and source.suffix not in (".yaml", ".yml"):
        raise UserError(f"{source} is a checkpoint file itself: leave out --checkpoint")
    classifier = getattr(options, "classifier", None)
    if classifier is not None and not Path(classifier).exists():
        raise UserError(f"--classifier {classifier}: no such run folder or checkpoint")


def is_model(options: argparse.Namespace) -> bool:
    """Whether the first argument is a model, and not a folder or file of images."""
    path = Path(options.source)
    described = any((path / name).is_file() for name in ("config.yaml", "model_index.json"))
    weights = path.suffix in WEIGHTS and not path.is_dir()
    return bool(options.config) or weights or described


def is_run(source: str | Path) -> bool:
    """Whether it is the folder of a training run, into which results may be written."""
    return (Path(source) / "checkpoints").is_dir()


def name_of(source: str) -> str:
    """A short name for a source that is no run."""
    path = Path(source)
    return path.resolve().name if path.is_dir() else path.stem


def result_folder(source: str, name: str) -> Path:
    """Where results go if nobody says: in a run, else in a folder of the working directory.

    Args:
        source: run or other model.
        name: of the results, such as ``generated``.
    """
    if is_run(source):
        return Path(source) / name
    return Path(fitting_name(f"{name}-{name_of(source)}"))


def add_classifier_options(parser: argparse.ArgumentParser) -> None:
    """The options that ``load_classifier`` reads."""
    parser.add_argument(
        "--classifier",
        metavar="RUN",
        help="guide towards the labels by a classifier of noisy latents (docs/classifier.md)",
    )
    parser.add_argument(
        "--classifier-scale", type=float, metavar="S", help="how much, 0 is off (default: 1)"
    )


def check_classifier_options(options: argparse.Namespace) -> None:
    """Refuse --classifier-scale alone.

    Raises:
        UserError: it names the option.
    """
    if options.classifier is None and options.classifier_scale is not None:
        raise UserError("--classifier-scale has no effect without --classifier RUN")
