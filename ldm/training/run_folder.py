"""Where the parts of a run lie, and what is recorded about it."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldm.errors import TrainingError
from ldm.files import read_json, reason, remove_leftovers, shown, write_text
from ldm.locks import RUN_LOCK, is_taken_over
from ldm.places import RUN_FILES

_FULL = (errno.ENOSPC, errno.EDQUOT)
_STATUS = "status.json"
_REMEDY = "delete it (hashes and times of the run are lost)"


def _texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


_KNOWN: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "state": ("a word", lambda value: isinstance(value, str)),
    "step": ("a whole number", lambda value: type(value) is int and value >= 0),
    "seconds": ("a number", _number),
    "inputs": ("hashes by file", _texts),
    "files": ("names by file", _texts),
    "resumes": (
        "a list of records",
        lambda value: isinstance(value, list) and all(isinstance(one, dict) for one in value),
    ),
    "init_from": (
        "null, or checkpoint, sha256 and partial by name",
        lambda value: (
            value is None
            or (isinstance(value, dict) and {"checkpoint", "sha256", "partial"} <= value.keys())
        ),
    ),
}
"""What a run records about itself, and how it is told from something else."""


@dataclass(frozen=True)
class RunFolder:
    """Where the parts of a run lie.

    Args:
        path: the folder, ``runs/<name>``.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The resolved config."""
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        """The folder of all checkpoints."""
        return self.path / "checkpoints"

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.checkpoints / "last.ckpt"

    @property
    def previous(self) -> Path:
        """The one before the newest, for the case that the newest is damaged."""
        return self.checkpoints / "previous.ckpt"

    def kept(self, step: int) -> Path:
        """A checkpoint that stays for ever."""
        return self.checkpoints / f"step-{step}.ckpt"

    @property
    def lock(self) -> Path:
        """The file by which one process keeps others from training here."""
        return self.path / RUN_LOCK

    @property
    def metrics(self) -> Path:
        """All logged numbers, a JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def curves(self) -> Path:
        """The loss curves as a picture."""
        return self.path / "curves.png"

    @property
    def samples(self) -> Path:
        """Picture grids drawn during training."""
        return self.path / "samples"

    @property
    def profiles(self) -> Path:
        """What ``profile`` measured."""
        return self.path / "profile"

    def why_lost(self) -> str:
        """Why a run that trains here must write nothing more, in one line; "": it may."""
        if is_taken_over(self.lock):
            return f"{shown(self.path)} was made anew by another process while it was trained"
        if not self.config.exists():
            return f"{shown(self.path)} was removed or renamed while it was trained"
        return ""

    def check_own(self) -> None:
        """Refuse to write what only informs into a folder that is another's by now.

        Raises:
            OSError: it is.
        """
        if is_taken_over(self.lock):
            raise OSError(self.why_lost())

    def check_room(self) -> None:
        """Refuse what stands in the place of checkpoints, before any step is done for nothing.

        Raises:
            TrainingError: something does.
        """
        if not self.checkpoints.is_dir() and os.path.lexists(self.checkpoints):
            raise TrainingError(
                f"{shown(self.checkpoints)} stands where the folder of checkpoints belongs, and is "
                "none: remove it"
            )
        for file in (self.last, self.previous):
            if file.is_dir():
                raise TrainingError(
                    f"{shown(file)} is a folder where a checkpoint belongs: remove it"
                )

    def resumable(self) -> list[Path]:
        """The checkpoints there are, the one to continue with first."""
        first = [self.last, self.previous]
        others = [file for file in self.checkpoints.glob("*.ckpt") if file not in first]
        return [file for file in first if file.exists()] + sorted(others, key=_age)

    def remove_leftovers(self) -> None:
        """Delete the temporary files of a writer that was killed; only its successor may."""
        inside = (self.checkpoints, self.samples, self.profiles, self.path / RUN_FILES)
        for folder in (self.path, *inside):
            remove_leftovers(folder, alone=True)

    def status(self) -> dict[str, Any]:
        """What ``status.json`` says: state, step, hashes of what the run builds on, resumptions.

        Raises:
            TrainingError: it is not readable as such.
        """
        file = self.path / _STATUS
        if not file.exists():
            return {}
        damaged = f"{shown(file)} is damaged"
        found: dict[str, Any] = read_json(file, TrainingError, damaged, _REMEDY, table=True)
        for key, (expected, fits) in _KNOWN.items():
            if key in found and not fits(found[key]):
                value = " ".join(repr(found[key]).split())[:80]
                raise TrainingError(
                    f"{damaged}: {key}: expected {expected}, got {value}; {_REMEDY}"
                )
        return found

    def write_status(self, **values: Any) -> None:
        """Update ``status.json`` in one move."""
        text = json.dumps(self.status() | values, indent=2) + "\n"
        write_text(self.path / _STATUS, text)

    @property
    def complete(self) -> bool:
        """True once training reached its last step."""
        return self.status().get("state") == "complete"

    def trouble(self, error: OSError, begun: bool = True) -> str | None:
        """One line about why nothing can be written to the folder; None: it is not about that.

        Args:
            error: what the system said.
            begun: the run has a config by now, unless somebody took the folder away.
        """
        if error.errno in _FULL:
            with contextlib.suppress(OSError):
                free = f"{shutil.disk_usage(self.path).free / 1e6:.0f} MB free; "
                remedy = f"continue with --resume {shown(self.path)}" if begun else "start again"
                return (
                    f"{shown(self.path)}: the disk is full ({free}{error.strerror}): make room and "
                    + remedy
                )
        if begun and (why := self.why_lost()):
            return why
        if not isinstance(error.filename, (str, bytes)):
            return None
        name = os.fsdecode(error.filename)
        if self.path.absolute() in Path(name).absolute().parents:
            return f"{shown(name)} cannot be written: {reason(error)}"
        return None


def _age(file: Path) -> float:
    try:
        return -file.stat().st_mtime
    except FileNotFoundError:  # the main process has just renamed it
        return 0.0
