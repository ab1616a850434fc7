"""Strict tables: what becomes of each argument of a class of the original code.

A key is renamed, kept aside for training, or dropped because it cannot matter; anything else is an
error. So nothing in a foreign configuration is ever silently computed differently.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from ldm.errors import ConfigError, suggest


@dataclass(frozen=True)
class Required:
    """An argument without default; ``name`` is what it is called here."""

    name: str


@dataclass(frozen=True)
class Renamed:
    """An argument with the default of the original; ``name`` is what it is called here."""

    name: str
    default: Any


@dataclass(frozen=True)
class Same:
    """An argument that has the same name, and if absent the same default, here."""


@dataclass(frozen=True)
class Inert:
    """An argument that may be dropped as long as it holds one of these values."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Ignored:
    """An argument that changes neither weights nor results; ``why`` says so."""

    why: str


Rule: TypeAlias = Required | Renamed | Same | Inert | Ignored
Table: TypeAlias = Mapping[str, Rule]
Translator: TypeAlias = Callable[[Any, str, str], dict[str, Any]]
"""From arguments, the dotted name of the class and the path of the arguments to a native node."""


def apply(table: Table, params: Any, name: str, path: str) -> dict[str, Any]:
    """Arguments under their native names.

    Args:
        table: a rule for every argument that the class ``name`` has.
        params: the arguments that a configuration gives (None: none).
        name: dotted name of the class, for messages.
        path: where ``params`` stands.

    Raises:
        ConfigError: an unknown key, a missing key, or a value that cannot be translated.
    """
    params = {} if params is None else params
    if not isinstance(params, Mapping):
        raise ConfigError(f"{path}: expected the arguments of {name}, got {params!r}")
    for key in params:
        if key not in table:
            raise ConfigError(f"{path}.{key}: unknown key of {name}{suggest(str(key), table)}")
    values: dict[str, Any] = {}
    for key, rule in table.items():
        if isinstance(rule, Required):
            if key not in params:
                raise ConfigError(f"{path}: missing key {key} of {name}")
            values[rule.name] = params[key]
        elif isinstance(rule, Renamed):
            values[rule.name] = params.get(key, rule.default)
        elif isinstance(rule, Same) and key in params:
            values[key] = params[key]
        elif isinstance(rule, Inert) and key in params and params[key] not in rule.values:
            allowed = " or ".join(repr(value) for value in rule.values)
            raise ConfigError(
                f"{path}.{key}: {name} with {key}={params[key]!r} has no native counterpart, "
                f"only {allowed} has"
            )
    return values


def node(target: str, **params: Any) -> dict[str, Any]:
    """A native node; arguments that are None are left to their default, which must be None."""
    return {"target": target, "params": {k: v for k, v in params.items() if v is not None}}


def split(foreign: Any, path: str, beside: tuple[str, ...] = ()) -> tuple[str, Any]:
    """Dotted name and arguments of a node of the original code.

    Args:
        foreign: the node.
        path: where it stands.
        beside: keys that may stand beside ``target`` and ``params``.

    Raises:
        ConfigError: not a node, or a key beside ``target`` and ``params``.
    """
    if not isinstance(foreign, Mapping) or not isinstance(foreign.get("target"), str):
        raise ConfigError(f"{path}: expected a node with target and params, got {foreign!r}")
    for key in foreign:
        if key not in ("target", "params", *beside):
            raise ConfigError(f"{path}.{key}: unknown key beside target and params")
    return foreign["target"], foreign.get("params")
