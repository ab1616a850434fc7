"""Errors that are meant for the person who runs a script, not for the programmer."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input: one line that says what is wrong, where, and what to do about it.

    Scripts print the line and exit with status 2; in a notebook it is an ordinary ``ValueError``.
    """


class ConfigError(UserError):
    """A configuration that cannot be built; the message names the YAML path."""


class DataError(UserError):
    """A data set, image or caption that cannot be used; the message names the item."""


class CheckpointError(UserError):
    """A checkpoint that cannot be read or does not fit; the message names file and keys."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint that is not what was written: cut short, or with bytes that changed."""


class TrainingError(UserError):
    """Training that must not go on; the message names the step and what was wrong."""


class UnreadableInputsError(UserError):
    """Some inputs could not be read; what was asked for was done with all others."""

    exit_status = 4


def suggest(word: str, known: Iterable[str]) -> str:
    """The end of a message that names the nearest of the known words; "" if none is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    if not near:
        lowered = {name.lower(): name for name in known}
        near = [lowered[word.lower()]] if word.lower() in lowered else []
    return f"; did you mean {near[0]!r}?" if near else ""
