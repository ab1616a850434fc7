"""Where text belongs in a config, so that ``name=007`` is not the number seven.

YAML reads 007, on, null and 1e3 as other things than text. What a value is meant to be, the
annotation of the parameter says that it goes to (``ldm.config.kinds``), directly or by
interpolations; else what stands there now.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ldm.config.kinds import ANY, Kind, all_kinds, said, takes_text
from ldm.config.paths import parts_of, walk
from ldm.errors import ConfigError
from ldm.signatures import AbsentError

Kinds = tuple[Kind, ...]

_TEXT: Kinds = (Kind("text"),)
_TEXT_OR_NONE: Kinds = tuple(map(Kind, ("text", "null", "list", "mapping")))
"""Admitted where a text stands and no annotation says more: it may be off, or several."""
_FORMS = {
    "null": {"null"},
    "true or false": {"true or false"},
    "whole number": {"whole number"},
    "number": {"number", "whole number"},
    "text": {"text"},
    "list": {"list"},
    "mapping": {"mapping"},
    "object": {"mapping"},
}
"""What YAML may hold for a kind."""
_NULL = ("", "~", "null", "Null", "NULL")
_MOST_HOPS = 8
"""Interpolations that are followed from a key to where it is used."""


def as_meant(config: DictConfig, parts: Sequence[str], typed: str) -> Any:
    """The value of an override: as typed where text belongs, else as YAML reads it.

    Text in quotes is what stands between them. Where something else may stand as well, such as a
    number, YAML decides.

    Args:
        config: as it is so far.
        parts: of the key.
        typed: what stands after the ``=``.

    Raises:
        yaml.YAMLError: it is no text, and not YAML either.
    """
    problem: Exception | None = None
    try:
        parsed = _yaml(typed)
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, RecursionError) as error:
        parsed, problem = None, error
    if isinstance(parsed, str) and (parsed == typed or typed[:1] in ("'", '"')):
        return parsed
    tree = OmegaConf.to_container(config)
    kinds = _wanted(tree, parts)
    if kinds == ANY and _is_text(config, parts):
        kinds = _TEXT_OR_NONE
    forms = _forms(kinds)
    comment = parsed is None and typed.strip() not in _NULL
    if problem is None and (forms is None or _form(parsed) in forms - {"text"}) and not comment:
        return _texts_in(typed, parsed, _own_kinds(tree, parts))
    if forms is not None and "text" in forms:
        return typed
    if problem is not None:
        raise problem
    return parsed


def check_texts(config: DictConfig) -> None:
    """Refuse numbers and truth values where only text belongs, as YAML makes them of it.

    Raises:
        ConfigError: it names the key, and says that quotes are missing.
    """
    tree = OmegaConf.to_container(config)
    _check_text(config, _TEXT, "name", tree.get("name") if isinstance(tree, dict) else None)
    for parts, params in walk(tree):
        call = _inner(tree, parts[:-1])
        if parts[-1] != "params" or not isinstance(params, dict):
            continue
        if not isinstance(call, dict) or "target" not in call:  # as below a key that is no text
            continue
        admitted = _parameters(call["target"])
        for key, value in params.items():
            place, kinds = ".".join((*parts, str(key))), admitted.get(str(key), ANY)
            _check_text(config, kinds, place, value)
            for k, item in enumerate(value if isinstance(value, list) else ()):
                _check_text(config, _element(kinds, str(k)), f"{place}.{k}", item)


def number_wanted(config: DictConfig, parts: Sequence[str], text: str) -> str:
    """What a key holds instead of a text, if that is a number or a truth value; "": it is not."""
    kinds = _own_kinds(OmegaConf.to_container(config), parts)
    others = {kind.name for kind in kinds} - {"whole number", "number", "true or false", "null"}
    return "" if others or "${" in text or text == "???" else said(kinds)


def _check_text(config: DictConfig, kinds: Kinds, place: str, value: Any) -> None:
    if not takes_text(kinds):
        return
    if isinstance(value, str) and value.startswith("${"):
        value = _resolved(config, place)
    if isinstance(value, bool | int | float):
        key = place.rpartition(".")[2]
        raise ConfigError(
            f"{place}: expected text, YAML reads {value!r} there: put quotes around it, "
            f'{key}: "..."'
        )


def _yaml(text: str) -> Any:
    tree = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))
    assert isinstance(tree, dict)
    return tree["value"]


def _is_text(config: DictConfig, parts: Sequence[str]) -> bool:
    return isinstance(_resolved(config, ".".join(parts)), str)


def _resolved(config: DictConfig, key: str) -> Any:
    """A value behind interpolations; None where there is none, or none yet."""
    try:
        return OmegaConf.select(config, key, throw_on_missing=False)
    except OmegaConfBaseException:
        return None


def _forms(kinds: Kinds) -> set[str] | None:
    """What YAML may hold where these kinds are admitted; None: anything."""
    found: set[str] = set()
    for kind in kinds:
        if kind.name == "any":
            return None
        found |= _FORMS.get(kind.name) or set(map(_form, kind.choices))
    return found


def _form(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "true or false", int: "whole number", float: "number"}
    return {**names, list: "list", dict: "mapping"}.get(type(value), "text")


def _texts_in(typed: str, parsed: Any, kinds: Kinds) -> Any:
    """A list whose items are texts, each as typed."""
    if not isinstance(parsed, list) or _element(kinds, "0") != _TEXT:
        return parsed
    nodes = yaml.compose(typed).value
    plain = [isinstance(node, yaml.ScalarNode) for node in nodes]
    return [n.value if p else v for n, p, v in zip(nodes, plain, parsed, strict=True)]


# -- what a place wants -----------------------------------------------------------------------


def _wanted(tree: Any, parts: Sequence[str], hops: int = _MOST_HOPS) -> Kinds:
    """What a key may hold: what its own place admits, and all places that refer to it."""
    own = _own_kinds(tree, parts)
    if own != ANY:
        return own
    found: Kinds = ()
    for place, whole in _references(tree, parts):
        kinds = _wanted(tree, place, hops - 1) if whole and hops else ANY
        kinds = kinds if whole else _TEXT
        if kinds == ANY:
            return ANY
        found += kinds
    return found or ANY


def _references(tree: Any, parts: Sequence[str]) -> Iterator[tuple[tuple[str, ...], bool]]:
    """Places that refer to a key, and whether that is all that stands there."""
    for place, value in walk(tree):
        if not isinstance(value, str) or "${" not in value:
            continue
        for piece in value.split("${")[1:]:
            inner = piece.partition("}")[0]
            if inner and not inner.startswith(".") and parts_of(inner) == list(parts):
                yield place, value == f"${{{inner}}}"


def _own_kinds(tree: Any, parts: Sequence[str]) -> Kinds:
    """What the parameter admits that a place of a config is the argument of, or an item of it."""
    if list(parts) == ["name"]:  # whatever it is made for
        return _TEXT
    if len(parts) == 2 and parts[0] == "trainer":
        return _parameters("pytorch_lightning.Trainer").get(parts[1], ANY)
    found = ANY
    for k, part in enumerate(parts):
        node = _inner(tree, parts[:k])
        call = _inner(tree, parts[: k - 1]) if k and parts[k - 1] == "params" else None
        if isinstance(call, dict) and "target" in call:
            found = _parameters(call["target"]).get(part, ANY)
        elif isinstance(node, dict) and "target" in node:  # target, params or partial
            found = ANY
        else:
            found = _element(found, part)
    return found


def _inner(tree: Any, parts: Sequence[str]) -> Any:
    """What stands at a place of plain mappings and lists; None if there is none."""
    for part in parts:
        if isinstance(tree, list):
            tree = tree[int(part)] if part.isdigit() and int(part) < len(tree) else None
        else:
            tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


def _parameters(target: Any) -> dict[str, Kinds]:
    """What each parameter of a target admits, as far as sources tell."""
    if not isinstance(target, str) or "." not in target:
        return {}
    try:
        return all_kinds(target)
    except AbsentError:
        return {}


def _element(kinds: Kinds, place: str) -> Kinds:
    """What is admitted at a place of a list, or of a mapping."""
    found: Kinds = ()
    for kind in kinds:
        if kind.each:
            found += (
                kind.items[int(place)] if place.isdigit() and int(place) < len(kind.items) else ()
            )
        elif kind.items:
            found += kind.items[0]
    return found or ANY
