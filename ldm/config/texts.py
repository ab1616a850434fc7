"""Where text belongs in a config, so that ``name=007`` is not the number seven.

YAML reads 007, on, null and 1e3 as other things than text. What a value is meant to be, the
annotation of the parameter says that it goes to, directly or by interpolations (``signatures``
reads it without any import); else what stands there now.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ldm import signatures
from ldm.config.paths import parts_of, walk
from ldm.errors import ConfigError
from ldm.signatures import Written

Kinds = frozenset[str]

_TEXT = frozenset({"text"})
_NAMES = {
    **{"text": "text", "none": "null", "bool": "true or false", "int": "a whole number"},
    **{"float": "a number", "list": "a list", "dict": "a mapping"},
}
_NULL = ("", "~", "null", "Null", "NULL")
_WORDS = {
    **dict.fromkeys(("str", "Path", "PurePath", "PathLike", "PosixPath"), _TEXT),
    "int": frozenset({"int"}),
    "float": frozenset({"int", "float"}),
    "bool": frozenset({"bool"}),
    "None": frozenset({"none"}),
    **dict.fromkeys(("list", "List", "tuple", "Tuple", "Sequence"), frozenset({"list"})),
    **dict.fromkeys(("Iterable", "Collection", "set", "Set"), frozenset({"list"})),
    **dict.fromkeys(("dict", "Dict", "Mapping"), frozenset({"dict"})),
}
"""What annotations admit."""
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
    annotation, kinds = _annotation(tree, parts), _wanted(tree, parts)
    if kinds is None and _is_text(config, parts):  # of something that may be off or several
        kinds = frozenset({"text", "none", "list", "dict"})
    comment = parsed is None and typed.strip() not in _NULL
    if problem is None and (kinds is None or _kind(parsed) in kinds - {"text"}) and not comment:
        return _texts_in(typed, parsed, annotation)
    if kinds is not None and "text" in kinds:
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
        annotations = _parameters(call["target"])
        for key, value in params.items():
            place, annotation = ".".join((*parts, str(key))), annotations.get(str(key))
            _check_text(config, _kinds(annotation), place, value)
            for k, item in enumerate(value if isinstance(value, list) else ()):
                _check_text(config, _kinds(_element(annotation)), f"{place}.{k}", item)


def number_wanted(config: DictConfig, parts: Sequence[str], text: str) -> str:
    """What a key holds instead of a text, if that is a number or a truth value; "": it is not."""
    kinds = _own_kinds(OmegaConf.to_container(config), parts)
    if kinds is None or kinds - {"int", "float", "bool", "none"} or "${" in text or text == "???":
        return ""
    return _in_words(kinds)


def _in_words(kinds: Kinds) -> str:
    return " or ".join(dict.fromkeys(_NAMES[kind] for kind in sorted(kinds)))


def _check_text(config: DictConfig, kinds: Kinds | None, place: str, value: Any) -> None:
    if kinds is None or "text" not in kinds or kinds - {"text", "none"}:
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


def _kind(value: Any) -> str:
    if value is None:
        return "none"
    names = {bool: "bool", int: "int", float: "float", list: "list", dict: "dict"}
    return names.get(type(value), "text")


def _texts_in(typed: str, parsed: Any, annotation: ast.expr | None) -> Any:
    """A list whose items are texts, each as typed."""
    element = _element(annotation)
    if not isinstance(parsed, list) or element is None or _kinds(element) != {"text"}:
        return parsed
    nodes = yaml.compose(typed).value
    plain = [isinstance(node, yaml.ScalarNode) for node in nodes]
    return [n.value if p else v for n, p, v in zip(nodes, plain, parsed, strict=True)]


# -- what a place wants -----------------------------------------------------------------------


def _wanted(tree: Any, parts: Sequence[str], hops: int = _MOST_HOPS) -> Kinds | None:
    """What a key may hold: what its own place admits, and all places that refer to it."""
    found = _own_kinds(tree, parts)
    if found is not None:
        return found
    for place, whole in _references(tree, parts):
        kinds = _wanted(tree, place, hops - 1) if whole and hops else None
        kinds = kinds if whole else _TEXT
        if kinds is None:
            return None
        found = kinds | (found or frozenset())
    return found


def _references(tree: Any, parts: Sequence[str]) -> Iterator[tuple[tuple[str, ...], bool]]:
    """Places that refer to a key, and whether that is all that stands there."""
    for place, value in walk(tree):
        if not isinstance(value, str) or "${" not in value:
            continue
        for piece in value.split("${")[1:]:
            inner = piece.partition("}")[0]
            if inner and not inner.startswith(".") and parts_of(inner) == list(parts):
                yield place, value == f"${{{inner}}}"


def _own_kinds(tree: Any, parts: Sequence[str]) -> Kinds | None:
    if list(parts) == ["name"]:  # whatever it is made for
        return _TEXT
    return _kinds(_annotation(tree, parts))


def _annotation(tree: Any, parts: Sequence[str]) -> ast.expr | None:
    """That of the parameter that a place of a config is the argument of, or an item of it."""
    if len(parts) == 2 and parts[0] == "trainer":
        return _parameters("pytorch_lightning.Trainer").get(parts[1])
    found: ast.expr | None = None
    for k, part in enumerate(parts):
        node = _inner(tree, parts[:k])
        call = _inner(tree, parts[: k - 1]) if k and parts[k - 1] == "params" else None
        if isinstance(call, dict) and "target" in call:
            found = _parameters(call["target"]).get(part)
        elif isinstance(node, dict) and "target" in node:  # target, params or partial
            found = None
        else:
            found = _element(found)
    return found


def _inner(tree: Any, parts: Sequence[str]) -> Any:
    """What stands at a place of plain mappings and lists; None if there is none."""
    for part in parts:
        if isinstance(tree, list):
            tree = tree[int(part)] if part.isdigit() and int(part) < len(tree) else None
        else:
            tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


def _parameters(target: Any) -> dict[str, ast.expr]:
    """The annotations of what a target takes, as far as sources tell."""
    if not isinstance(target, str) or "." not in target:
        return {}
    try:
        found = signatures.parameters(target) or []
    except signatures.AbsentError:
        return {}
    written = ((p.name, p.annotation) for p in found)
    return {name: w.node for name, w in written if isinstance(w, Written) and w.node is not None}


def _kinds(annotation: ast.expr | None) -> Kinds | None:
    """What an annotation admits; None where it does not say, or says it by a name of its own."""
    if isinstance(annotation, ast.Constant):
        return _of_constant(annotation.value)
    if isinstance(annotation, ast.BinOp):
        return _union([annotation.left, annotation.right])
    if isinstance(annotation, ast.Subscript):
        word, inner = _word(annotation), annotation.slice
        members = inner.elts if isinstance(inner, ast.Tuple) else [inner]
        if word == "Optional":
            return _union([*members, ast.Constant(None)])
        if word == "Literal":
            constants = [m.value for m in members if isinstance(m, ast.Constant)]
            return frozenset(_kind(value) for value in constants)
        if word in ("Union", "Annotated"):
            return _union(members[:1] if word == "Annotated" else members)
    return _WORDS.get(_word(annotation))


def _of_constant(value: Any) -> Kinds | None:
    if value is None:
        return frozenset({"none"})
    try:
        return _kinds(ast.parse(str(value), mode="eval").body)
    except SyntaxError:
        return None


def _union(members: Sequence[ast.expr]) -> Kinds | None:
    found = [_kinds(member) for member in members]
    return None if None in found else frozenset().union(*(kinds or () for kinds in found))


def _element(annotation: ast.expr | None) -> ast.expr | None:
    """The annotation of the items of a list or mapping."""
    if isinstance(annotation, ast.BinOp):
        found = [_element(part) for part in (annotation.left, annotation.right)]
        return next((part for part in found if part is not None), None)
    if not isinstance(annotation, ast.Subscript):
        return None
    inner = annotation.slice
    members = inner.elts if isinstance(inner, ast.Tuple) else [inner]
    if _word(annotation) == "Optional":
        return _element(members[0])
    if _word(annotation) in ("dict", "Dict", "Mapping"):
        return members[-1]
    kinds = _WORDS.get(_word(annotation))
    return members[0] if kinds == {"list"} else None


def _word(node: Any) -> str:
    node = node.value if isinstance(node, ast.Subscript) else node
    return str(getattr(node, "id", getattr(node, "attr", "")))
