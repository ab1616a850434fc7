"""Starting a program: arguments first, heavy libraries afterwards, errors in one line.

A program has two modules of the same name. That in ``ldm.cli.commands`` is light: its docstring is
the help text, ``parse(arguments)`` reads options and YAML files and refuses what cannot work. That
in ``ldm.programs`` does the work: ``run(options)``. It, and with it PyTorch, is imported when the
options are known to be good. ``scripts/NAME.py`` and the command ``ldm NAME`` both call ``start``.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import ldm
from ldm.errors import UserError, exhausted, suggest

FAMILIES = {
    "training": {
        "train": "train one stage from a config, continue a run, fine-tune a model",
        "cache_latents": "encode a data set once, to train stage 2 from its latents",
        "convert": "a model in another format: diffusers, the original code, this library",
        "toy": "diffusion of points in the plane, trained and filmed in a minute",
    },
    "sampling": {
        "sample": "images without a condition, or of classes",
        "txt2img": "images for prompts",
        "img2img": "a picture made anew, more or less",
        "inpaint": "the hole of a picture",
        "superres": "a picture, four times as large",
        "layout2img": "images for boxes with classes",
        "semantic2img": "images for a map of classes",
        "retrieve2img": "images like the neighbours of a text or picture",
        "walk": "a film between prompts or seeds",
        "draw_process": "the diffusion process of a model as a picture",
    },
    "evaluation": {
        "evaluate": "FID, KID, precision and recall, ... by a protocol",
        "evaluate_task": "does a model do what its condition asks for?",
        "evaluate_autoencoder": "is a first stage good enough for stage 2?",
        "reconstruct": "pictures through a first stage",
        "compare_reports": "may the numbers of two reports be compared?",
        "reproduce": "recipes of the rows that the paper publishes",
    },
    "data": {
        "show_data": "what a config would train on, as a picture",
        "build_index": "embeddings of a folder and an index over them, for retrieval",
        "write_scenes": "synthetic scenes as files, in every format of the data recipes",
    },
}
"""Programs by what they are about, each with a line of help."""


def start(name: str, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a program and end; bad input ends in one line on stderr and exit status 2.

    The status is 3 where the input is images of which some cannot be read (``CorruptImages``).

    Args:
        name: of the program, as in ``FAMILIES``.
        arguments: those of the command line, if not ``sys.argv``.
    """
    end_with_status(lambda: call(name, sys.argv[1:] if arguments is None else arguments))


def call(name: str, arguments: Sequence[str]) -> None:
    """Run a program in this process.

    Raises:
        UserError: what was asked for cannot be done.
        SystemExit: of argparse.
    """
    options = parse(name, arguments)
    check(name, options)
    run(name, options)


def parse(name: str, arguments: Sequence[str]) -> argparse.Namespace:
    """The options of a program; refuses what can be seen to be wrong without PyTorch."""
    place = f"ldm.cli.commands.{_family(name)}.{name}"
    options: argparse.Namespace = importlib.import_module(place).parse(arguments)
    return options


def check(name: str, options: argparse.Namespace) -> None:
    """Refuse files that are not there; apart from ``parse``, which also serves rehearsals.

    They are those of ``check_files``, a function of its module or of its family's package.
    """
    family = f"ldm.cli.commands.{_family(name)}"
    for module in map(importlib.import_module, (family, f"{family}.{name}")):
        if hasattr(module, "check_files"):
            module.check_files(options)


def run(name: str, options: argparse.Namespace) -> None:
    """Let a program do what its options say."""
    program = importlib.import_module(f"ldm.programs.{_family(name)}.{name}")
    _quiet_libraries()  # once they are imported: Lightning sets its level then
    program.run(options)


def main() -> NoReturn:
    """The command ``ldm``: the name of a program and its arguments."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(_help())
        sys.exit(0)
    if name == "--version":
        print(f"ldm {ldm.__version__}")
        sys.exit(0)
    end_with_status(lambda: call(name, arguments))


def one_line(error: Exception) -> str:
    """The message of an error; of one that a loader worker passed on, without its traceback."""
    text = str(error)
    if text.startswith("Caught ") and "DataLoader worker" in text:
        text = re.sub(r"^ldm\.errors\.\w+: ", "", text.strip().splitlines()[-1])
    return " ".join(text.split())


def as_typed(text: str) -> str:
    """A text that names ``scripts/NAME.py``, for those who have typed ``ldm NAME``."""
    if Path(sys.argv[0]).name in {f"{name}.py" for names in FAMILIES.values() for name in names}:
        return text
    return re.sub(r"(?:python )?scripts/(\w+)\.py", r"ldm \1", text)


def say(text: str) -> None:
    """Tell the user what is being done."""
    print(text, flush=True)


def _family(name: str) -> str:
    for family, programs in FAMILIES.items():
        if name in programs:
            return family
    names = [program for programs in FAMILIES.values() for program in programs]
    raise UserError(f"ldm {name}: no such program{suggest(name, names)} (ldm --help lists them)")


def _help() -> str:
    lines = ["usage: ldm PROGRAM ...    (ldm PROGRAM --help says more)"]
    for family, programs in FAMILIES.items():
        lines += ["", f"{family}:", *(f"  {name:<22}{line}" for name, line in programs.items())]
    return "\n".join(lines)


def end_with_status(work: Callable[[], object]) -> NoReturn:
    """Do the work and end the process; see ``start``."""
    sys.path.append(os.getcwd())  # targets may live in the user's own modules
    try:
        work()
    except UserError as error:
        print(f"error: {as_typed(one_line(error))}", file=sys.stderr)
        sys.exit(getattr(error, "exit_status", 2))
    except (RuntimeError, MemoryError, OSError) as error:
        short = exhausted(error)
        if short is None:
            raise
        print(f"error: {short}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as interrupt:
        status = getattr(interrupt, "exit_status", 130)  # 0: another process reports
        if status:
            print(str(interrupt) or "interrupted", file=sys.stderr)
        sys.exit(status)
    sys.exit(0)


def _quiet_libraries() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in ("pytorch_lightning", "lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in ("httpx", "urllib3", "matplotlib", "PIL", "fsspec", "transformers", "faiss"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for text in (
        ".*does not have many workers.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*The number of training batches.*",
        ".*lr_scheduler.step.*before.*optimizer.step.*",
        ".*isinstance.treespec, LeafSpec.*",
        ".*not using `distributed.sampler.*",
        ".*You have overridden `on_before_batch_transfer`.*",
        ".*your dataloader is not resumable.*",  # the data module knows its position
        ".*IterableDataset. has .__len__. defined.*",  # ours gives each process its share
        ".*module.s. in eval mode at the start of training.*",  # the frozen first stage
        ".*ModelCheckpoint with manual optimization.*",  # the state after the step is what we want
    ):
        warnings.filterwarnings("ignore", message=text)
