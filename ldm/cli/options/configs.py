"""A config on the command line: YAML files, then ``key=value`` overrides."""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import DictConfig

from ldm.config import load_config
from ldm.config.trust import mark_if_beside
from ldm.errors import UserError


def read_config(items: Sequence[str], complete: bool = True, trust: bool = True) -> DictConfig:
    """The files among the arguments of a program, merged, with the overrides among them.

    What is wrong with the nodes that are going to be built ``ldm.config.check`` says, and of all
    that training needs ``ldm.experiment.check_experiment``; neither imports PyTorch.

    Args:
        items: names of files and overrides.
        complete: see ``ldm.config.load_config``.
        trust: take the files for the user's own; False: those that lie beside weights for anybody's
            (``ldm.config.trust``).

    Raises:
        UserError: there is no file among them, or one of them cannot be used.
    """
    files = [item for item in items if "=" not in item]
    if not files:
        raise UserError("give a config file; --help shows examples")
    overrides = [item for item in items if "=" in item]
    config = load_config(*files, overrides=overrides, complete=complete)
    return mark_if_beside(config, files, trust)
