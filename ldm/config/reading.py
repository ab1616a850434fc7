"""YAML files in, one merged configuration out; and back into a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ldm.compat.compvis import config as compvis
from ldm.compat.moved import with_current_names
from ldm.config.overrides import override
from ldm.config.paths import failure, one_line, walk
from ldm.config.texts import check_texts
from ldm.config.yaml_text import read_yaml
from ldm.errors import ConfigError, UserError
from ldm.files import shown, write_text
from ldm.places import with_own_cache, with_places

_LONGEST = 1000
"""Letters that the name of a file may have here, folders included."""
_BYTES = {0xDC00 + byte: 0xF700 + byte for byte in range(0x80, 0x100)}
"""Private letters of Unicode for the bytes of a file name that is not UTF-8, as Python has them."""
_LETTERS = {letter: byte for byte, letter in _BYTES.items()}


def load_config(
    *paths: str | Path, overrides: Sequence[str] = (), complete: bool = True
) -> DictConfig:
    """Merge YAML files from left to right, then apply overrides.

    Mappings are merged key by key; lists are replaced. A node whose ``target`` differs from the one
    to its left replaces that node with all its ``params``. A file whose top-level ``base`` names
    another file, relative to itself, changes and extends that file. Files of the original code
    (CompVis) are translated to native names before they are merged.

    Args:
        paths: YAML files; later ones win.
        overrides: ``key=value`` with a dotted key that exists (``list.0.key`` inside lists) and a
            YAML value, or ``+key=value`` for a new key. Where text belongs the value is taken as
            typed: ``name=007``, ``data_root=on``.
        complete: refuse mandatory values that are missing and interpolations that lead nowhere.
            False where only a part is built, e.g. the model without its data; ``instantiate``
            refuses what is missing in that part.

    Returns:
        The merged configuration; its interpolations are kept.

    Raises:
        ConfigError: A file cannot be read, an override does not fit, a mandatory value (``???``) is
            missing or an interpolation leads nowhere.
    """
    files = {str(file): tree for path in paths for file, tree in _with_bases(Path(path))}
    merged: dict[str, Any] = {}
    for tree in files.values():
        merged = _merge(merged, tree)
    try:
        config = OmegaConf.create(merged)
    except Exception as error:  # keys and values that OmegaConf does not know
        raise ConfigError(f"{' + '.join(files)}: {failure(error)}") from error
    for text in overrides:
        override(config, text)
    check_texts(config)
    if complete:
        _check_values(config, files)
    return config


def save_config(config: DictConfig, path: str | Path) -> None:
    """Write a configuration; never leaves half a file.

    Interpolations between its parts are kept, so that an override of the saved file reaches all
    places that an override of the original would have reached.
    """
    write_text(path, to_yaml(config))


def to_yaml(config: Any, resolve: bool = False) -> str:
    """A configuration as the text of a file; ``load_config`` reads names that are not UTF-8 back.

    Args:
        config: a ``DictConfig``.
        resolve: replace interpolations by their values.
    """
    try:
        return OmegaConf.to_yaml(config, resolve=resolve)
    except UnicodeEncodeError:  # YAML has no way to write a single byte of a name
        tree = OmegaConf.to_container(config, resolve=resolve)
        return OmegaConf.to_yaml(OmegaConf.create(_translated(tree, _BYTES)))


def _translated(tree: Any, letters: Mapping[int, int]) -> Any:
    if isinstance(tree, dict):
        return {key: _translated(value, letters) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_translated(value, letters) for value in tree]
    return tree.translate(letters) if isinstance(tree, str) else tree


def _with_bases(path: Path, above: tuple[Path, ...] = ()) -> list[tuple[Path, dict[str, Any]]]:
    """A file after the one that its ``base`` names, and that one's, in the order of merging."""
    if path in above:
        chain = " -> ".join(str(file) for file in (*above, path))
        raise ConfigError(f"{path}: base: the files name each other in a circle: {chain}")
    tree = _read(path)
    base = tree.pop("base", None)
    if base is None:
        return [(path, tree)]
    if not isinstance(base, str) or len(base) > _LONGEST:
        raise ConfigError(f"{path}: base: expected the name of one file, got {repr(base)[:80]}")
    return [*_with_bases(path.parent / base, (*above, path)), (path, tree)]


def _read(path: Path) -> dict[str, Any]:
    where = shown(path)
    try:
        plain: Any = _translated(read_yaml(path), _LETTERS)
    except FileNotFoundError as error:
        raise ConfigError(f"{where}: no such configuration file{_where(path)}") from error
    try:
        named = {str(key): with_current_names(value) for key, value in plain.items()}
        translated = compvis.translate_file(named, name=_run_name(path))
        return with_own_cache(with_places(translated, path.parent), path)
    except UserError as error:
        raise ConfigError(f"{path}: {error}") from error
    except Exception as error:  # a published file that was changed
        raise ConfigError(f"{path}: cannot be translated: {failure(error)}") from error


def _where(path: Path) -> str:
    """What a user may have meant who names a config of the repository from elsewhere."""
    if path.is_absolute() or path.parts[0] != "configs":
        return ""
    return f" in {Path.cwd()}; the files of configs/ are in the repository, name them by their path"


def _run_name(path: Path) -> str:
    """The name of a run whose file gives none: ``models/cin256/config.yaml`` -> ``cin256``."""
    return path.absolute().parent.name if path.stem == "config" else path.stem


def _merge(left: Any, right: Any) -> Any:
    if not isinstance(left, dict) or not isinstance(right, dict):
        return right
    if "target" in left and right.get("target", left["target"]) != left["target"]:
        return right
    merged = dict(left)
    for key, value in right.items():
        merged[key] = _merge(left[key], value) if key in left else value
    return merged


def _check_values(config: DictConfig, files: Mapping[str, dict[str, Any]]) -> None:
    values = [(parts, ".".join(parts), v) for parts, v in walk(OmegaConf.to_container(config))]
    for parts, key, value in values:  # before the interpolations that lead to them
        if value == "???":
            raise ConfigError(
                f"{_origin(parts, files)}{key}: mandatory value is missing (???); "
                f"give it in a further YAML file or as {key}=VALUE"
            )
    for parts, key, value in values:
        try:
            OmegaConf.select(config, key, throw_on_resolution_failure=True)
        except RecursionError as error:
            raise ConfigError(
                f"{_origin(parts, files)}{key}: cannot resolve {value}: it leads back to itself"
            ) from error
        except OmegaConfBaseException as error:
            raise ConfigError(
                f"{_origin(parts, files)}{key}: cannot resolve {value}: {one_line(error)}; "
                "correct the name or add that key"
            ) from error
        except Exception as error:  # of a resolver
            raise ConfigError(f"{_origin(parts, files)}{key}: {failure(error)}") from error
    try:
        OmegaConf.to_container(config, resolve=True)
    except RecursionError as error:
        raise ConfigError(
            f"{' + '.join(files)}: an interpolation stands inside what it names"
        ) from error
    except Exception as error:  # behind a key that cannot be selected, such as ""
        raise ConfigError(f"{' + '.join(files)}: cannot resolve: {failure(error)}") from error


def _origin(parts: tuple[str, ...], files: Mapping[str, dict[str, Any]]) -> str:
    """The last file that has the key, as the beginning of a message."""
    for name, tree in reversed(list(files.items())):
        if parts in dict(walk(tree)):
            return f"{name}: "
    return ""
