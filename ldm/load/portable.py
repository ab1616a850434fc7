"""Files that a model needs besides its weights go with its config: vocabularies, architectures.

``pack`` brings copies into the folder ``files`` beside a config that is about to be written, which
then names ``run://NAME``; ``ldm.config.load_config`` finds them there, wherever the folder lies by
then. Which files: every path in the node ``model`` that leads to one, and of a folder with the
settings of an encoder these. Weights are linked to, not copied: a checkpoint holds them, except
those of an encoder with ``in_checkpoint: false``, whose file has to stay where it is.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ldm.checkpoint import SUFFIXES
from ldm.files import file_sha256, temporary_beside, write_atomically
from ldm.places import IN_RUN, RUN_FILES

SETTINGS = ("config.json", "vocab.txt", "vocab.json", "merges.txt")
"""Files of a folder of an encoder that are no weights."""
_PATH = "path"
"""The key whose value may be a folder without a separator in its name."""


def pack(config: DictConfig, folder: Path) -> tuple[DictConfig, dict[str, str]]:
    """The config for a file in ``folder``, beside which its files now lie.

    Args:
        config: what is to be written; it is not changed.
        folder: of a run, or of an exported model; it exists.

    Returns:
        The config, and by path of what was brought from elsewhere its name in ``files``.
    """
    inside = (folder / RUN_FILES).resolve()
    names: dict[str, str] = {}
    values = list(_paths(config))
    for value in values:
        if Path(value).parent.resolve() == inside:
            names[value] = Path(value).name
    brought: dict[str, str] = {}
    for value in values:
        if value not in names:
            source = Path(value).expanduser()
            equal = (name for path, name in brought.items() if _same(source, Path(path)))
            names[value] = next(equal, None) or _free_name(source, set(names.values()))
            _bring(source, inside / names[value])
            brought[value] = names[value]
    return _renamed(config, {value: IN_RUN + name for value, name in names.items()}), brought


def with_own_files(config: DictConfig, folder: Path, brought: Mapping[str, str]) -> DictConfig:
    """The config with the copies in ``folder`` in place of the files that hold the same.

    Args:
        config: what a user asks for.
        folder: of a run.
        brought: what ``pack`` told of it: the copy of a path stands for a file that is gone, too.
    """
    inside = (folder / RUN_FILES).absolute()
    copies = sorted(file for file in inside.glob("*") if not file.name.startswith("."))
    names = {
        path: str(inside / name)
        for path, name in brought.items()
        if not Path(path).expanduser().exists()
    }
    for value in _paths(config) if copies else ():
        first = [inside / brought[value]] if value in brought else []
        same = (str(file) for file in (*first, *copies) if _same(Path(value).expanduser(), file))
        if Path(value).parent.resolve() != inside.resolve() and (name := next(same, None)):
            names[value] = name
    return _renamed(config, names) if names else config


def _paths(config: DictConfig) -> Iterator[str]:
    """Each path in the node ``model`` that leads to a file, or to a folder of an encoder, once."""
    model = OmegaConf.to_container(config.model, resolve=True) if "model" in config else None
    for value, key in dict.fromkeys(_texts(model, "model")):
        try:
            path = Path(value).expanduser()
            named = os.sep in value or key == _PATH
            if (path.suffix and path.is_file()) or (named and _is_encoder(path)):
                yield value
        except (OSError, ValueError, RuntimeError):  # no path: too long, or of an unknown user
            continue


def _texts(node: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, dict):
        for name, child in node.items():
            if name != "target":
                yield from _texts(child, str(name))
    elif isinstance(node, list):
        for child in node:
            yield from _texts(child, key)
    elif isinstance(node, str) and "\n" not in node:
        yield node, key


def _is_encoder(folder: Path) -> bool:
    return any((folder / name).is_file() for name in SETTINGS)


def _free_name(source: Path, taken: set[str]) -> str:
    names = (f"{source.stem}{(n and f'-{n}') or ''}{source.suffix}" for n in range(len(taken) + 1))
    return next(name for name in names if name not in taken)


def _bring(source: Path, target: Path) -> None:
    """Copy a text, link to weights; of a folder both."""
    source = source.resolve()
    if source == target.resolve():
        return
    if source.is_dir():
        for file in sorted(source.iterdir()):
            if file.name in SETTINGS or file.suffix in SUFFIXES:
                _bring(file, target / file.name)
    elif source.suffix in SUFFIXES:
        target.parent.mkdir(parents=True, exist_ok=True)
        link = temporary_beside(target)
        link.symlink_to(source)
        os.replace(link, target)
    else:
        content = source.read_bytes()
        write_atomically(target, lambda file: file.write(content))


def _same(one: Path, other: Path) -> bool:
    """Whether two files, or the settings and weights in two folders, hold the same."""
    try:
        if one.is_dir() and other.is_dir():
            names = {file.name for folder in (one, other) for file in folder.iterdir()}
            needed = [name for name in names if name in SETTINGS or Path(name).suffix in SUFFIXES]
            return all(_same(one / name, other / name) for name in needed)
        if not (one.is_file() and other.is_file()):
            return False
        if os.path.samefile(one, other):
            return True
        return one.stat().st_size == other.stat().st_size and file_sha256(one) == file_sha256(other)
    except OSError:  # the main process is about to replace it
        return False


def _renamed(config: DictConfig, names: Mapping[str, str]) -> DictConfig:
    """A copy with other values for some; references between its parts are kept."""
    result = copy.deepcopy(config)
    _rename(result, names)
    return result


def _rename(node: Any, names: Mapping[str, str]) -> None:
    raw: Any = OmegaConf.to_container(node, resolve=False)
    for key in list(node) if isinstance(node, DictConfig) else range(len(node)):
        if isinstance(raw[key], (dict, list)):
            _rename(node[key], names)
        elif isinstance(raw[key], str) and not _is_reference(raw[key]):
            try:
                value = node[key]
            except OmegaConfBaseException:  # the data of a model may be absent
                continue
            path_like = isinstance(value, str) and (os.sep in value or bool(Path(value).suffix))
            if value in names and (path_like or key == _PATH):
                node[key] = names[value]


def _is_reference(text: str) -> bool:
    """Whether it is the value of another key, and not that of a resolver."""
    return text.startswith("${") and text.endswith("}") and not set(text[2:-1]) & set("${}:")
