"""Conditioners that do not learn, as nodes of a config."""

from __future__ import annotations

from ldm.conditioners.base import Conditioner


def frozen(conditioner: Conditioner, in_checkpoint: bool = True) -> Conditioner:
    """The given conditioner, which from now on does not learn.

    Args:
        conditioner: any conditioner.
        in_checkpoint: whether checkpoints hold its weights all the same.
    """
    conditioner.freeze(in_checkpoint)
    return conditioner
