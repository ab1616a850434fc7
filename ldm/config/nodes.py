"""Objects from the nodes of a configuration; see ``ldm.config``."""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ldm import signatures
from ldm.compat.compvis import config as compvis
from ldm.compat.moved import current_name
from ldm.config.kinds import ANY, Kind, all_kinds, as_counted, misfit
from ldm.config.objects import unsuited
from ldm.config.paths import at, failure, join, one_line
from ldm.config.trust import building, refuse_foreign
from ldm.errors import ConfigError, UserError, suggest
from ldm.places import searched

_NODE_KEYS = {"target", "params", "partial"}
_ANNOTATED = ("ldm", "torch", "pytorch_lightning")
"""Packages whose annotations are true; those of others may be loose."""
_ENDLESS = "it has no end: an interpolation stands inside what it names"


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
        UntrustedError: The node is part of a config that lies beside weights, and names what such
            a config may not call, see ``ldm.config.trust``.
        ConfigError: Something cannot be imported or does not fit; the message names the place. A
            ``UserError`` of a constructor keeps its class and gets the place in front.
    """
    if not path and OmegaConf.is_config(node):
        path = node._get_full_key("")
    try:
        refuse_foreign(node, path)
        with building(node):
            return _instantiate(node, path)
    except RecursionError as error:
        raise ConfigError(f"{at(path)}{_ENDLESS}") from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{at(error.full_key or path)}{one_line(error)}") from error


def _instantiate(node: Any, path: str) -> Any:
    if isinstance(node, (Mapping, DictConfig)):
        if compvis.is_published(node.get("target")):
            return _instantiate(_translated(node, path), path)
        if "target" in node:
            return _build(node, path)
        if "params" in node:
            raise ConfigError(f"{at(path)}'params' without 'target'; add the dotted name to build")
        return {key: _instantiate(*_child(node, key, join(path, key))) for key in node}
    if isinstance(node, (list, tuple, ListConfig)):
        return [_instantiate(*_child(node, i, f"{path}[{i}]")) for i in range(len(node))]
    return node


def check(node: Any, path: str = "") -> None:
    """Refuse what ``instantiate`` would refuse, as far as sources tell that without any import.

    Args:
        node: what is going to be built.
        path: as for ``instantiate``.

    Raises:
        ConfigError: of unknown and missing keys, of unknown names in this library, and of plain
            values that the annotation of a parameter does not admit.
    """
    if not path and OmegaConf.is_config(node):
        path = node._get_full_key("")
    try:
        _check(node, path)
    except RecursionError as error:
        raise ConfigError(f"{at(path)}{_ENDLESS}") from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{at(error.full_key or path)}{one_line(error)}") from error


def _check(node: Any, path: str) -> None:
    if isinstance(node, (list, tuple, ListConfig)):
        for i in range(len(node)):
            _check(*_child(node, i, f"{path}[{i}]"))
    if not isinstance(node, (Mapping, DictConfig)) or compvis.is_published(node.get("target")):
        return
    params, place = node, path
    if "target" in node:
        name, params, partial = _call(node, path)
        place = join(path, "params")
        try:
            parameters = signatures.parameters(name)
        except signatures.AbsentError as error:
            raise _not_found(name, path, error.name, error.names) from error
        _check_arguments(parameters, name, params, place, partial)
        _check_values(name, params, place)
    elif "params" in node:
        raise ConfigError(f"{at(path)}'params' without 'target'; add the dotted name to build")
    for key in params:
        _check(*_child(params, key, join(place, str(key))))


def _translated(node: Any, path: str) -> Any:
    """The native node for one of the original code."""
    try:
        if OmegaConf.is_config(node):
            node = OmegaConf.to_container(node, resolve=True)
        return compvis.translate(node, path)
    except UserError:
        raise
    except Exception as error:  # a published node that was changed
        raise ConfigError(f"{at(path)}cannot be translated: {failure(error)}") from error


def _child(node: Any, key: Any, path: str) -> tuple[Any, str]:
    """A child and its path; an interpolated child is named by the place where it is written."""
    try:
        value = node[key]
    except OmegaConfBaseException as error:
        raise ConfigError(f"{at(path)}{one_line(error)}") from error
    if OmegaConf.is_config(value) and OmegaConf.is_interpolation(node, key):
        path = value._get_full_key("") or path
    return value, path


def _call(node: Any, path: str) -> tuple[str, Mapping[str, Any], bool]:
    """Of a node with a target: the dotted name, the arguments, and whether they are not all."""
    extra = sorted(str(key) for key in node if key not in _NODE_KEYS)
    if extra:
        raise ConfigError(
            f"{join(path, extra[0])}: unknown key beside 'target'; arguments belong under 'params'"
        )
    name = current_name(node["target"])
    place = at(join(path, "target"))
    if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
        raise ConfigError(f"{place}expected a dotted name like package.module.Class, got {name!r}")
    if "." not in name:
        raise ConfigError(f"{place}{name!r} has no module; write package.module.{name}")
    params = node.get("params")
    params = {} if params is None else params
    if not isinstance(params, (Mapping, DictConfig)):
        raise ConfigError(f"{join(path, 'params')}: expected a mapping, got {params!r}")
    partial = node.get("partial", False)
    if not isinstance(partial, bool):
        raise ConfigError(f"{join(path, 'partial')}: expected true or false, got {partial!r}")
    return name, params, partial


def _build(node: Any, path: str) -> Any:
    name, params, partial = _call(node, path)
    factory, place = _locate(name, path), join(path, "params")
    _check_arguments(_parameters(factory), name, params, place, partial)
    _check_values(name, params, place)
    kinds = _kinds(name)
    arguments = {}
    for key in map(str, params):
        built = _instantiate(*_child(params, key, join(place, key)))
        arguments[key] = as_counted(built, kinds.get(key, ANY))
    _check_objects(factory, name, arguments, place)
    if partial:
        return functools.partial(factory, **arguments)
    try:
        return factory(**arguments)
    except UserError as error:
        hint = searched(str(error), arguments.values())
        raise type(error)(f"{at(path)}{error}{hint}") from error
    except SystemExit as error:
        raise ConfigError(f"{at(path)}{name}: it ends the program") from error
    except Exception as error:  # whatever the arguments led to; its cause stays attached
        raise ConfigError(f"{at(path)}{name}: {failure(error)}") from error


def _locate(name: str, path: str) -> Callable[..., Any]:
    """Import the callable with this dotted name."""
    place, parts = at(join(path, "target")), name.split(".")
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
        raise ConfigError(f"{place}importing {name} failed: {one_line(error)}") from error
    except Exception as error:  # a module of the user's may do anything
        raise ConfigError(f"{place}importing {name} failed: {failure(error)}") from error


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
    return ConfigError(f"{at(join(path, 'target'))}cannot find {name}: {reason}")


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
                    f"{join(place, key)}: unknown key for {name}{suggest(key, accepted)}; "
                    f"it accepts: {', '.join(accepted) or 'nothing'}"
                )
    _check_missing(named, given, name, place, partial)


def _check_missing(
    named: Sequence[inspect.Parameter], given: Sequence[str], name: str, place: str, partial: bool
) -> None:
    missing = [p.name for p in named if p.default is p.empty and p.name not in given]
    if missing and not partial:
        plural = "s" if len(missing) > 1 else ""
        raise ConfigError(f"{place}: missing key{plural} {', '.join(missing)} for {name}")


def _kinds(name: str) -> Mapping[str, tuple[Kind, ...]]:
    """What a callable's parameters admit, by their names; nothing where that is not known."""
    if name.partition(".")[0] not in _ANNOTATED:
        return {}
    try:
        return all_kinds(name)
    except signatures.AbsentError:  # of sources; what was imported has it
        return {}


def _check_values(name: str, params: Any, place: str) -> None:
    """Refuse plain values that the annotations of a callable do not admit."""
    kinds = _kinds(name)
    for key in params:
        where = join(place, str(key))
        value, _ = _child(params, key, where)
        if str(key) not in kinds:
            continue
        try:
            plain = OmegaConf.to_container(value, resolve=True) if _is_config(value) else value
        except OmegaConfBaseException:  # further down, where it is named
            continue
        reason = misfit(plain, kinds[str(key)])
        if reason is not None:
            raise ConfigError(f"{where}: {reason}")


def _is_config(value: Any) -> bool:
    return OmegaConf.is_config(value)


def _check_objects(
    factory: Callable[..., Any], name: str, arguments: Mapping[str, Any], place: str
) -> None:
    """Refuse what children have built where something else belongs."""
    if name.partition(".")[0] not in _ANNOTATED:
        return
    for key, reason in unsuited(factory, arguments):
        raise ConfigError(f"{join(place, key)}: {reason}")
