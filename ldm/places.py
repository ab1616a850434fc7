"""Where the files lie that a config names, and the configs that come with the library."""

from __future__ import annotations

import os
import re
import sysconfig
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Any

from ldm.errors import ConfigError

RUN_FILES, IN_RUN = "files", "run://"
"""Folder of a run with what its model needs besides weights; its config names ``run://NAME``."""
_TEXTS = (".txt", ".json", ".gz")
"""Endings of files that are looked for in further places."""
_PART = re.compile(r"(.+)#([\w-]*)", re.DOTALL)
CACHE_NODES, CACHE_MANIFEST = "data.yaml", "manifest.json"
"""Files of a latent cache: what trains from it, and what it holds."""
_DATA = ("data", "uncached")
"""Parts of a config that describe data."""


def with_places(tree: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Plain values of a config file, whose files are found from any working directory.

    ``run://NAME`` lies in the folder ``files`` beside the config. The relative path of a text that
    is not in the working directory is looked for beside the config, in the two folders above (that
    of a run in ``runs/NAME`` is where it was trained) and in the clone of this library; but not in
    ``data``, whose paths may be relative to a folder of its own.

    Args:
        tree: mappings, lists and values by name.
        folder: that of the config file.

    Raises:
        ConfigError: a ``run://`` leads out of the folder ``files``.
    """
    folder = folder.absolute()
    places = (folder, *folder.parents[:2], configs_folder().parent)

    def found(value: Any, search: bool) -> Any:
        if isinstance(value, dict):
            return {key: found(child, search) for key, child in value.items()}
        if isinstance(value, list):
            return [found(child, search) for child in value]
        if isinstance(value, str) and value.startswith(IN_RUN):
            return str(folder / RUN_FILES / _inside(value))
        if search and is_absent_text(value):
            files = (place / value for place in places)
            return next((str(file) for file in files if file.is_file()), value)
        return value

    described = {key for key, value in tree.items() if isinstance(value, dict)} - set(_DATA)
    return {key: found(value, key in described) for key, value in tree.items()}


def with_own_cache(tree: dict[str, Any], file: Path) -> dict[str, Any]:
    """The same, where the latents of a cache's own ``data.yaml`` lie beside it.

    The path that is written there is that of the call that made the cache, seen from where that
    was: elsewhere, after a move and in a copy it leads to nothing, or to another cache.

    Args:
        tree: mappings, lists and values by name.
        file: the config file.
    """
    if file.name != CACHE_NODES or not (file.parent / CACHE_MANIFEST).is_file():
        return tree

    def found(value: Any) -> Any:
        if isinstance(value, list):
            return [found(child) for child in value]
        if not isinstance(value, dict):
            return value
        if str(value.get("target")).endswith(".CachedLatents"):
            params = value.get("params")
            if isinstance(params, dict) and isinstance(params.get("root"), str):
                return value | {"params": params | {"root": str(file.parent)}}
        return {key: found(child) for key, child in value.items()}

    return {key: found(value) for key, value in tree.items()}


def _inside(value: str) -> PurePath:
    """The path below ``files`` that a ``run://`` names."""
    name = PurePath(value.removeprefix(IN_RUN))
    if name.is_absolute() or ".." in name.parts or "\0" in value:
        raise ConfigError(f"{value!r} leads out of the folder {RUN_FILES!r} beside the config")
    return name


def split_name(where: str) -> tuple[str, str]:
    """A file and the part of it that is meant, as in ``DATA.yaml#train``; "": all of it.

    In the name of something that is there ``#`` is a letter like any other.
    """
    named = _PART.fullmatch(where)
    if named is None or os.path.exists(os.path.expanduser(where)):
        return where, ""
    return named[1], named[2]


def is_absent_text(value: Any) -> bool:
    """Whether it reads like the relative path of a text that is not in the working directory."""
    if not (isinstance(value, str) and value.endswith(_TEXTS)) or "$" in value or "\n" in value:
        return False
    return not value.startswith(("/", "~")) and not Path(value).exists()


def searched(message: str, values: Iterable[Any]) -> str:
    """Where such a path that a message names was looked for, as its end; "": it names none."""
    absent = next((text for text in filter(is_absent_text, values) if text in message), None)
    clone = configs_folder().parent
    where = f"in {Path.cwd()}, beside the config file, in two folders above it and in {clone}"
    return "" if absent is None else f" ({absent} was looked for {where})"


def configs_folder() -> Path:
    """The configurations that come with the library: the clone's, else those of a wheel."""
    clone = Path(__file__).resolve().parents[1] / "configs"
    return clone if clone.is_dir() else Path(sysconfig.get_path("data")) / "share/ldm/configs"
