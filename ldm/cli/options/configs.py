"""A config on the command line: YAML files, then ``key=value`` overrides."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from omegaconf import DictConfig

from ldm.config import load_config
from ldm.config.trust import mark_if_beside
from ldm.errors import UserError
from ldm.files import shown

_KEY = r"[^\W\d][\w-]*(?:\.[\w-]+|\[\d+\])*"
"""A dotted key, like ``data.params.root`` or ``layers[0].size``."""
_YAML = (".yaml", ".yml")


def is_override(item: str) -> bool:
    """Whether an argument is ``key=value`` and not the name of a file, which may hold a ``=``.

    What is there as a file is a file; so is what ends like a YAML file, or names folders, where
    ``key=value`` would have its key.
    """
    key, equals, _ = item.partition("=")
    if not equals or os.path.isfile(item):
        return False
    return re.fullmatch(rf"\+?{_KEY}", key) is not None or not (
        item.lower().endswith(_YAML) or "/" in key or os.path.exists(item)
    )


def split_config(items: Sequence[str]) -> tuple[list[str], list[str]]:
    """The files and the overrides among arguments, each in their order.

    Raises:
        UserError: one is neither, but what other programs take.
    """
    for item in items:
        if os.path.exists(item):
            continue
        key = item.partition("=")[0].lstrip("~+")
        if re.fullmatch(rf"~{_KEY}(=.*)?", item, re.DOTALL):
            raise UserError(
                f"{shown(item)}: keys are not deleted here: give {key}=null to switch something "
                "off, or leave the key out of the file"
            )
        if item.startswith("++"):
            raise UserError(f"{shown(item)}: give {item.lstrip('+')}, or with one + for a new key")
    files = [item for item in items if not is_override(item)]
    return files, [item for item in items if is_override(item)]


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
    files, overrides = split_config(items)
    if not files:
        absent = next((item for item in overrides if item.lower().endswith(_YAML)), None)
        taken = "" if absent is None else f"{shown(absent)}: no such file, so key=value is meant; "
        raise UserError(f"{taken}give a config file; --help shows examples")
    config = load_config(*files, overrides=overrides, complete=complete)
    return mark_if_beside(config, files, trust)
