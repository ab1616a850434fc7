"""Conditioners that do not learn, as nodes of a config."""

from __future__ import annotations

from ldm.conditioners.base import Conditioner


def frozen(conditioner: Conditioner) -> Conditioner:
    """The given conditioner, which from now on does not learn; checkpoints hold its weights."""
    conditioner.freeze()
    return conditioner
