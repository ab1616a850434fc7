"""Configuration: YAML files in, Python objects out.

A node ``{target: dotted.name, params: {...}}`` stands for the call ``name(**params)``; children are
built first, so constructors receive objects. ``partial: true`` beside ``target`` gives
``functools.partial(name, **params)`` instead. Everything else is plain data.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ldm import signatures
from ldm.compat.compvis import config as compvis
from ldm.compat.moved import current_name, with_current_names
from ldm.errors import ConfigError, UserError, suggest
from ldm.files import searched, with_places, write_text

_NODE_KEYS = {"target", "params", "partial"}
_OPEN = ("trainer",)
"""Nodes of plain arguments, whose keys are checked by their reader: overrides may add some."""
_SWITCHES = ("profile", "peak_tflops", "compile", "every")
"""Top-level keys that every experiment has though most files leave them out; checked likewise."""


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
            YAML value, or ``+key=value`` for a new key.
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
    except OmegaConfBaseException as error:
        raise ConfigError(f"{' + '.join(files)}: {_one_line(error)}") from error
    for override in overrides:
        _override(config, override)
    if complete:
        _check_values(config, files)
    return config


def save_config(config: DictConfig, path: str | Path) -> None:
    """Write a configuration; never leaves half a file.

    Interpolations between its parts are kept, so that an override of the saved file reaches all
    places that an override of the original would have reached.
    """
    write_text(path, OmegaConf.to_yaml(config))


def instantiate(node: Any, path: str = "") -> Any:
    """Build the object that a node describes, its children first.

    A node reached twice through interpolation is built twice: two references give two objects.
    Nodes with the dotted names of the original code (CompVis) give the native object.

    Args:
        node: A ``DictConfig``, or plain mappings, lists and values.
        path: Where ``node`` stands, for error messages; a ``DictConfig`` that is part of a larger
            one knows its place.

    Returns:
        The object; mappings without ``target`` and lists come back as plain ``dict`` and ``list``.

    Raises:
        ConfigError: Something cannot be imported or does not fit; the message names the place. A
            ``UserError`` of a constructor keeps its class and gets the place in front.
    """
    if not path and OmegaConf.is_config(node):
        path = node._get_full_key("")
    if isinstance(node, (Mapping, DictConfig)):
        if compvis.is_published(node.get("target")):
            if OmegaConf.is_config(node):
                node = OmegaConf.to_container(node, resolve=True)
            return instantiate(compvis.translate(node, path), path)
        if "target" in node:
            return _build(node, path)
        if "params" in node:
            raise ConfigError(f"{_at(path)}'params' without 'target'; add the dotted name to build")
        return {key: instantiate(*_child(node, key, _join(path, key))) for key in node}
    if isinstance(node, (list, tuple, ListConfig)):
        return [instantiate(*_child(node, i, f"{path}[{i}]")) for i in range(len(node))]
    return node


def check(node: Any, path: str = "") -> None:
    """Refuse what ``instantiate`` would refuse, as far as sources tell that without any import.

    Args:
        node: what is going to be built.
        path: as for ``instantiate``.

    Raises:
        ConfigError: of unknown and missing keys and of unknown names in this library.
    """
    if not path and OmegaConf.is_config(node):
        path = node._get_full_key("")
    if isinstance(node, (list, tuple, ListConfig)):
        for i in range(len(node)):
            check(*_child(node, i, f"{path}[{i}]"))
    if not isinstance(node, (Mapping, DictConfig)) or compvis.is_published(node.get("target")):
        return
    params, place = node, path
    if "target" in node:
        name, params, partial = _call(node, path)
        place = _join(path, "params")
        try:
            parameters = signatures.parameters(name)
        except signatures.AbsentError as error:
            raise _not_found(name, path, error.name, error.names) from error
        _check_arguments(parameters, name, params, place, partial)
    elif "params" in node:
        raise ConfigError(f"{_at(path)}'params' without 'target'; add the dotted name to build")
    for key in params:
        check(*_child(params, key, _join(place, str(key))))


def _child(node: Any, key: Any, path: str) -> tuple[Any, str]:
    """A child and its path; an interpolated child is named by the place where it is written."""
    try:
        value = node[key]
    except OmegaConfBaseException as error:
        raise ConfigError(f"{_at(path)}{_one_line(error)}") from error
    if OmegaConf.is_config(value) and OmegaConf.is_interpolation(node, key):
        path = value._get_full_key("") or path
    return value, path


def _call(node: Any, path: str) -> tuple[str, Mapping[str, Any], bool]:
    """Of a node with a target: the dotted name, the arguments, and whether they are not all."""
    extra = sorted(str(key) for key in node if key not in _NODE_KEYS)
    if extra:
        raise ConfigError(
            f"{_join(path, extra[0])}: unknown key beside 'target'; arguments belong under 'params'"
        )
    name = current_name(node["target"])
    place = _at(_join(path, "target"))
    if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
        raise ConfigError(f"{place}expected a dotted name like package.module.Class, got {name!r}")
    if "." not in name:
        raise ConfigError(f"{place}{name!r} has no module; write package.module.{name}")
    params = node.get("params")
    params = {} if params is None else params
    if not isinstance(params, (Mapping, DictConfig)):
        raise ConfigError(f"{_join(path, 'params')}: expected a mapping, got {params!r}")
    partial = node.get("partial", False)
    if not isinstance(partial, bool):
        raise ConfigError(f"{_join(path, 'partial')}: expected true or false, got {partial!r}")
    return name, params, partial


def _build(node: Any, path: str) -> Any:
    name, params, partial = _call(node, path)
    factory, place = _locate(name, path), _join(path, "params")
    _check_arguments(_parameters(factory), name, params, place, partial)
    arguments = {
        str(key): instantiate(*_child(params, key, _join(place, str(key)))) for key in params
    }
    if partial:
        return functools.partial(factory, **arguments)
    try:
        return factory(**arguments)
    except UserError as error:
        hint = searched(str(error), arguments.values())
        raise type(error)(f"{_at(path)}{error}{hint}") from error
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{_at(path)}{name}: {_one_line(error)}") from error


def _locate(name: str, path: str) -> Callable[..., Any]:
    """Import the callable with this dotted name."""
    place, parts = _at(_join(path, "target")), name.split(".")
    found: Any = None
    for i in range(1, len(parts) + 1):
        prefix, parent = ".".join(parts[:i]), found
        if parent is not None and hasattr(parent, parts[i - 1]):
            found = getattr(parent, parts[i - 1])
            continue
        found = _import(prefix, place) if i < len(parts) or _is_package(parent) else None
        if found is None:
            raise _not_found(name, path, prefix, _names(parent))
    if not callable(found):
        raise ConfigError(f"{place}{name} is not callable, it is a {type(found).__name__}")
    result: Callable[..., Any] = found
    return result


def _is_package(value: Any) -> bool:
    return isinstance(value, ModuleType) and hasattr(value, "__path__")


def _import(name: str, place: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            return None
        raise ConfigError(f"{place}importing {name} failed: {_one_line(error)}") from error
    except ImportError as error:
        raise ConfigError(f"{place}importing {name} failed: {_one_line(error)}") from error


def _names(parent: Any) -> list[str] | None:
    """What an imported module or class has; None: there is none."""
    if parent is None:
        return None
    names = [key for key in dir(parent) if not key.startswith("_")]
    if _is_package(parent):
        names += [module.name for module in pkgutil.iter_modules(parent.__path__)]
    return names


def _not_found(name: str, path: str, absent: str, names: Sequence[str] | None) -> ConfigError:
    """``name`` leads to ``absent``, which is not among the ``names`` of what comes before it."""
    container, _, last = absent.rpartition(".")
    reason = f"{container} has no {last!r}{suggest(last, names or ())}"
    if names is None:
        reason = f"no module named {last!r}; is the package installed?"
    return ConfigError(f"{_at(_join(path, 'target'))}cannot find {name}: {reason}")


def _parameters(factory: Callable[..., Any]) -> Collection[inspect.Parameter] | None:
    try:
        return inspect.signature(factory).parameters.values()
    except (ValueError, TypeError):  # of some built-in callables
        return None


def _check_arguments(
    parameters: Collection[inspect.Parameter] | None,
    name: str,
    params: Iterable[Any],
    place: str,
    partial: bool,
) -> None:
    if parameters is None:
        return
    given = [str(key) for key in params]
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    accepted = [p.name for p in named]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        for key in given:
            if key not in accepted:
                raise ConfigError(
                    f"{_join(place, key)}: unknown key for {name}{suggest(key, accepted)}; "
                    f"it accepts: {', '.join(accepted) or 'nothing'}"
                )
    missing = [p.name for p in named if p.default is p.empty and p.name not in given]
    if missing and not partial:
        plural = "s" if len(missing) > 1 else ""
        raise ConfigError(f"{place}: missing key{plural} {', '.join(missing)} for {name}")


def _with_bases(path: Path, above: tuple[Path, ...] = ()) -> list[tuple[Path, dict[str, Any]]]:
    """A file after the one that its ``base`` names, and that one's, in the order of merging."""
    if path in above:
        chain = " -> ".join(str(file) for file in (*above, path))
        raise ConfigError(f"{path}: base: the files name each other in a circle: {chain}")
    tree = _read(path)
    base = tree.pop("base", None)
    if base is None:
        return [(path, tree)]
    if not isinstance(base, str):
        raise ConfigError(f"{path}: base: expected the name of one file, got {base!r}")
    return [*_with_bases(path.parent / base, (*above, path)), (path, tree)]


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = OmegaConf.load(path)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such configuration file{_where(path)}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a YAML file: {_one_line(error)}") from error
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}: YAML error{line}: {_one_line(error.problem)}") from error
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path}: {_one_line(error)}") from error
    plain = OmegaConf.to_container(tree)
    if not isinstance(plain, dict):
        raise ConfigError(f"{path}: the top level must be a mapping of keys, not a list")
    try:
        named = {str(key): with_current_names(value) for key, value in plain.items()}
        translated = compvis.translate_file(named, name=_run_name(path))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return with_places(translated, path.parent)


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


def _override(config: DictConfig, override: str) -> None:
    key, equals, value = override.partition("=")
    new, key = key.startswith("+"), key.removeprefix("+")
    parts = _parts(key)
    if not equals or not parts:
        raise ConfigError(f"override {override!r}: expected key=value")
    known = dict(_walk(OmegaConf.to_container(config)))
    open_node = parts[0] in _OPEN and len(parts) > 1 and parts[0] in config
    new = new or open_node or parts[0] in _SWITCHES
    if not new and tuple(parts) not in known and not _reachable(config, key):
        names = [".".join(path) for path in known]
        near = difflib.get_close_matches(key, names, n=3, cutoff=0.5)
        near = near or [name for name in names if name.split(".")[-1] == parts[-1]][:3]
        nearest = f"; nearest: {', '.join(near)}" if near else ""
        raise ConfigError(f"override {override!r}: no such key{nearest} (+{override} adds it)")
    for end in range(1, len(parts)):
        above = known.get(tuple(parts[:end]), {})
        if not isinstance(above, (dict, list, str)):
            name = ".".join(parts[:end])
            raise ConfigError(f"override {override!r}: {name} is {above!r}, it holds no keys")
    try:
        parsed = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={value}"]))
        assert isinstance(parsed, dict)
        OmegaConf.update(config, key, parsed["value"], merge=False, force_add=new)
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, TypeError, IndexError) as error:
        raise ConfigError(f"override {override!r}: {_one_line(error)}") from error


def _reachable(config: DictConfig, key: str) -> bool:
    """Whether a key exists behind an interpolation."""
    try:
        return OmegaConf.select(config, key) is not None
    except OmegaConfBaseException:
        return False


def _check_values(config: DictConfig, files: Mapping[str, dict[str, Any]]) -> None:
    values = [(parts, ".".join(parts), v) for parts, v in _walk(OmegaConf.to_container(config))]
    for parts, key, value in values:  # before the interpolations that lead to them
        if value == "???":
            raise ConfigError(
                f"{_origin(parts, files)}{key}: mandatory value is missing (???); "
                f"give it in a further YAML file or as {key}=VALUE"
            )
    for parts, key, value in values:
        try:
            OmegaConf.select(config, key, throw_on_resolution_failure=True)
        except OmegaConfBaseException as error:
            raise ConfigError(
                f"{_origin(parts, files)}{key}: cannot resolve {value}: {_one_line(error)}; "
                "correct the name or add that key"
            ) from error


def _origin(parts: tuple[str, ...], files: Mapping[str, dict[str, Any]]) -> str:
    """The last file that has the key, as the beginning of a message."""
    for name, tree in reversed(list(files.items())):
        if parts in dict(_walk(tree)):
            return f"{name}: "
    return ""


def _walk(tree: Any, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All (path, value) pairs of a tree of mappings and lists, parents first."""
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(tree, dict):
        items = tree.items()
    elif isinstance(tree, list):
        items = enumerate(tree)
    for key, value in items:
        path = (*prefix, str(key))
        yield path, value
        yield from _walk(value, path)


def _parts(key: str) -> list[str]:
    """``a.0.b`` and ``a[0].b`` -> ``["a", "0", "b"]``."""
    return [part for part in re.split(r"[.\[\]]+", key) if part]


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _at(path: str) -> str:
    return f"{path}: " if path else ""


def _one_line(error: object) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    if isinstance(error, OmegaConfBaseException):
        lines = lines[:1]  # the others describe its internals
    return " ".join(" ".join(lines).split())
