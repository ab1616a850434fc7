"""What all scripts share: one-line errors, quiet libraries, a run folder as an argument."""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import torch

from ldm.errors import UserError


def run(main: Callable[[], None]) -> NoReturn:
    """Run ``main``; bad input ends in one line on stderr and exit status 2.

    The status is 3 where the input is images of which some cannot be read (``CorruptImages``).
    """
    sys.path.append(os.getcwd())  # targets may live in the user's own modules
    _quiet_libraries()
    try:
        main()
    except UserError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(getattr(error, "exit_status", 2))
    except KeyboardInterrupt as interrupt:
        status = getattr(interrupt, "exit_status", 130)  # 0: another process reports
        if status:
            print(str(interrupt) or "interrupted", file=sys.stderr)
        sys.exit(status)
    sys.exit(0)


def one_line(error: Exception) -> str:
    """The message of an error; of one that a loader worker passed on, without its traceback."""
    text = str(error)
    if text.startswith("Caught ") and "DataLoader worker" in text:
        text = re.sub(r"^ldm\.errors\.\w+: ", "", text.strip().splitlines()[-1])
    return " ".join(text.split())


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


def check_out_file(option: str, path: Path | None) -> None:
    """Refuse a place where no file can be written, before any work; None: there is none to write.

    Raises:
        UserError: a folder has this name, or a file that of a folder above it.
    """
    if path is None:
        return
    if path.is_dir():
        raise UserError(f"{option} {path}: is a folder; name a file")
    check_out_folder(option, path.parent)


def check_out_folder(option: str, path: Path | None) -> None:
    """Refuse a place where no folder can be, before any work; None: there is none to make.

    Raises:
        UserError: a file has its name, or that of a folder above it.
    """
    if path is None:
        return
    nearest = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not nearest.is_dir():
        raise UserError(f"{option} {path}: {nearest} is a file, not a folder")


def check_device(name: str) -> None:
    """Refuse a device that this machine does not have."""
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError):
        raise UserError(f"--device {name}: not available on this machine") from None


def say(text: str) -> None:
    """Tell the user what is being done."""
    print(text, flush=True)
