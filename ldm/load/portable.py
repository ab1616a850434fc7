"""Files that a model needs besides its weights go with its config: vocabularies, architectures.

``pack`` brings copies into the folder ``files`` beside a config that is about to be written, which
then names ``files/NAME``; ``ldm.config.load_config`` finds them there, wherever the folder lies by
then. Which files: every path in the node ``model`` that leads to one, and of a folder with the
settings of an encoder these. Weights are linked to, not copied: a checkpoint holds them.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ldm.checkpoint import SUFFIXES
from ldm.files import RUN_FILES, file_sha256, write_atomically

SETTINGS = ("config.json", "vocab.txt", "vocab.json", "merges.txt")
"""Files of a folder of an encoder that are no weights."""
_REFERENCE = re.compile(r"\$\{[^${}]+\}")


def pack(config: DictConfig, folder: Path) -> tuple[DictConfig, dict[str, str]]:
    """The config for a file in ``folder``, beside which its files now lie.

    Args:
        config: what is to be written; it is not changed.
        folder: of a run, or of an exported model; it exists.

    Returns:
        The config, and by name in ``files`` the path of what was brought from elsewhere.
    """
    inside = (folder / RUN_FILES).absolute()
    values = list(_paths(config))
    names = {value: Path(value).name for value in values if Path(value).parent == inside}
    brought = {}
    for value in values:
        if value not in names:
            source = Path(value).expanduser()
            names[value] = _free_name(source, set(names.values()))
            _bring(source, inside / names[value])
            brought[names[value]] = value
    return _renamed(
        config, {value: f"{RUN_FILES}/{name}" for value, name in names.items()}
    ), brought


def with_own_files(config: DictConfig, folder: Path, brought: Mapping[str, str]) -> DictConfig:
    """The config with the copies in ``folder`` in place of the files that hold the same.

    Args:
        config: what a user asks for.
        folder: of a run.
        brought: what ``pack`` told of it: the name of a copy stands for a file that is gone, too.
    """
    copies = sorted((folder / RUN_FILES).absolute().glob("*"))
    names = {
        path: str((folder / RUN_FILES / name).absolute())
        for name, path in brought.items()
        if not Path(path).expanduser().exists()
    }
    for value in _paths(config) if copies else ():
        same = [str(file) for file in copies if _same(Path(value).expanduser(), file)]
        if same and value not in same:
            names[value] = same[0]
    return _renamed(config, names) if names else config


def _paths(config: DictConfig) -> Iterator[str]:
    """Each path in the node ``model`` that leads to a file, or to a folder of an encoder, once."""
    model = OmegaConf.to_container(config.model, resolve=True) if "model" in config else None
    for value in dict.fromkeys(_texts(model)):
        path = Path(value).expanduser()
        try:
            file = path.suffix != "" and path.is_file()
            if file or (path.name and any((path / name).is_file() for name in SETTINGS)):
                yield value
        except (OSError, ValueError):  # a text that is too long for a path
            continue


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        node = [value for key, value in node.items() if key != "target"]
    if isinstance(node, list):
        for child in node:
            yield from _texts(child)
    elif isinstance(node, str) and "\n" not in node:
        yield node


def _free_name(source: Path, taken: set[str]) -> str:
    names = (f"{source.stem}{(n and f'-{n}') or ''}{source.suffix}" for n in range(len(taken) + 1))
    return next(name for name in names if name not in taken)


def _bring(source: Path, target: Path) -> None:
    """Copy a text, link to weights; of a folder both."""
    if source.is_dir():
        for file in sorted(source.iterdir()):
            if file.name in SETTINGS or file.suffix in SUFFIXES:
                _bring(file, target / file.name)
    elif source.suffix in SUFFIXES:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        target.symlink_to(source.resolve())
    else:
        content = source.read_bytes()
        write_atomically(target, lambda file: file.write(content))


def _same(one: Path, other: Path) -> bool:
    """Whether two files, or the settings in two folders, hold the same."""
    if one.is_dir() and other.is_dir():
        files = [name for name in SETTINGS if (one / name).exists() or (other / name).exists()]
        return all(_same(one / name, other / name) for name in files)
    if not (one.is_file() and other.is_file()):
        return False
    if os.path.samefile(one, other):
        return True
    return one.stat().st_size == other.stat().st_size and file_sha256(one) == file_sha256(other)


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
        elif isinstance(raw[key], str) and not _REFERENCE.fullmatch(raw[key]):
            try:
                value = node[key]
            except OmegaConfBaseException:  # the data of a model may be absent
                continue
            if isinstance(value, str) and value in names:
                node[key] = names[value]
