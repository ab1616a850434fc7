"""Which plain values of a YAML file fit the annotation of a parameter.

Sources are read, nothing is imported, so that a wrong value is refused before PyTorch is. Said is
only what an annotation says beyond doubt: what is unknown here admits everything.
"""

from __future__ import annotations

import ast
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ldm.signatures import Written, meaning, parameters

_PLAIN = {
    "int": "whole number",
    "float": "number",
    "bool": "true or false",
    "str": "text",
    "Path": "text",
    "PurePath": "text",
    "PosixPath": "text",
    "PathLike": "text",
    "_PATH": "text",
    "None": "null",
    "Any": "any",
    "object": "any",
    "list": "list",
    "List": "list",
    "Sequence": "list",
    "Iterable": "list",
    "Collection": "list",
    "set": "list",
    "Set": "list",
    "frozenset": "list",
    "tuple": "list",
    "Tuple": "list",
    "dict": "mapping",
    "Dict": "mapping",
    "Mapping": "mapping",
    "Callable": "object",
    "Tensor": "object",
    "Module": "object",
    "Optimizer": "object",
    "Dataset": "object",
    "Generator": "object",
}
_WRAPPERS = {"Annotated", "Final", "InitVar", "ClassVar", "Required", "NotRequired"}
_OPEN_BASES = {"str", "int", "float", "dict", "list", "tuple", "Enum", "StrEnum", "IntEnum"}
_OPEN_BASES |= {"NamedTuple", "TypedDict"}
"""Bases of classes that are, or may be made from, plain values."""


@dataclass(frozen=True)
class Kind:
    """One of the kinds of values that an annotation admits.

    Attributes:
        name: ``any``, ``null``, ``true or false``, ``whole number``, ``number``, ``text``,
            ``choice``, ``list``, ``mapping`` or ``object``.
        items: of a list or mapping: the kinds of each of its values, or of all of them.
        each: whether ``items`` has an entry for each value of a list, whose length is fixed by it.
        choices: the values of a ``choice``.
        label: the name of the class of an ``object``.
    """

    name: str
    items: tuple[tuple[Kind, ...], ...] = ()
    each: bool = False
    choices: tuple[Any, ...] = ()
    label: str = ""


ANY: tuple[Kind, ...] = (Kind("any"),)


def kinds_of(name: str, key: str) -> tuple[Kind, ...]:
    """The kinds of values that a parameter of a callable admits.

    Args:
        name: dotted name of the callable.
        key: name of the parameter.

    Returns:
        One or more kinds; ``ANY`` where nothing is known.

    Raises:
        AbsentError: this package has no such name.
    """
    return all_kinds(name).get(key, ANY)


def takes_text(kinds: Sequence[Kind]) -> bool:
    """Whether a value that was typed belongs there as text: text is admitted and no number is."""
    names = {kind.name for kind in kinds}
    texts = [kind for kind in kinds if kind.name == "choice"]
    numbers = {"any", "whole number", "number", "true or false"}
    only = all(isinstance(value, str) for kind in texts for value in kind.choices)
    return ("text" in names or bool(texts)) and only and not names & numbers


@functools.cache
def all_kinds(name: str) -> dict[str, tuple[Kind, ...]]:
    """The kinds that each parameter of a callable admits, by the parameter's name."""
    found = parameters(name) or ()
    return {p.name: _kinds(p.annotation) for p in found if isinstance(p.annotation, Written)}


def _kinds(written: Written, hops: int = 12) -> tuple[Kind, ...]:
    module, node = written
    if node is None or not hops:
        return ANY
    if isinstance(node, ast.Constant):
        return _quoted(written, hops) if isinstance(node.value, str) else _constant(node.value)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _union([Written(module, node.left), Written(module, node.right)], hops)
    if isinstance(node, ast.Subscript):
        return _subscripted(written, node, hops)
    if isinstance(node, ast.Name | ast.Attribute):
        return _named(written, hops)
    return ANY


def _constant(value: Any) -> tuple[Kind, ...]:
    return (Kind("null"),) if value is None else ANY


def _quoted(written: Written, hops: int) -> tuple[Kind, ...]:
    """Of an annotation in quotes."""
    text: Any = getattr(written.node, "value", "")
    try:
        return _kinds(Written(written.module, ast.parse(text, mode="eval").body), hops - 1)
    except SyntaxError:
        return ANY


def _union(parts: Sequence[Written], hops: int) -> tuple[Kind, ...]:
    found = [kind for part in parts for kind in _kinds(part, hops - 1)]
    return ANY if any(kind.name == "any" for kind in found) else tuple(dict.fromkeys(found))


def _subscripted(written: Written, node: ast.Subscript, hops: int) -> tuple[Kind, ...]:
    head = _last(node.value)
    inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    parts = [Written(written.module, part) for part in inner]
    if head == "Optional":
        return (*_union(parts, hops), Kind("null"))
    if head == "Union":
        return _union(parts, hops)
    if head in _WRAPPERS:
        return _kinds(parts[0], hops - 1)
    if head == "Literal":
        values = [part.value for part in inner if isinstance(part, ast.Constant)]
        return (Kind("choice", choices=tuple(values)),) if len(values) == len(inner) else ANY
    outer = _kinds(Written(written.module, node.value), hops - 1)
    if [kind.name for kind in outer] == ["list"]:
        return (replace(outer[0], **_items(head, parts, hops)),)
    if [kind.name for kind in outer] == ["mapping"] and len(parts) == 2:
        return (replace(outer[0], items=(_kinds(parts[1], hops - 1),)),)
    return outer


def _items(head: str, parts: Sequence[Written], hops: int) -> dict[str, Any]:
    open_end = isinstance(parts[-1].node, ast.Constant) and parts[-1].node.value is Ellipsis
    each = head.lower() == "tuple" and not open_end
    items = tuple(_kinds(part, hops - 1) for part in (parts if each else parts[:1]))
    return {"items": items, "each": each}


def _named(written: Written, hops: int) -> tuple[Kind, ...]:
    word = _last(written.node)
    if word in _PLAIN:
        return (Kind(_PLAIN[word], label=word if _PLAIN[word] == "object" else ""),)
    if isinstance(written.node, ast.Attribute):  # nn.Module, torch.Tensor, torch.device
        return ANY
    found = meaning(written)
    if isinstance(found, ast.ClassDef):
        bases = {_last(base) for base in found.bases} & _OPEN_BASES
        return ANY if bases else (Kind("object", label=word),)
    if found is None or isinstance(found.node, ast.Call | ast.Constant):  # TypeVar("T")
        return ANY
    return _kinds(found, hops - 1)


def _last(node: Any) -> str:
    node = getattr(node, "value", node) if isinstance(node, ast.Subscript) else node
    return str(getattr(node, "id", getattr(node, "attr", "")))


def misfit(value: Any, kinds: Sequence[Kind]) -> str | None:
    """Why a plain value does not fit; None where it does, or where only building it tells.

    Args:
        value: of a config, with its interpolations resolved.
        kinds: what is admitted.
    """
    if any(_fits(value, kind) for kind in kinds):
        return None
    for kind in kinds:  # the one that was meant
        if _meant(value, kind) and kind.items:
            inner = _misfit_inside(value, kind)
            if inner is not None:
                return inner
    hint = ""
    names = {kind.name for kind in kinds}
    if isinstance(value, (bool, int, float)) and "text" in names and value == value:
        hint = "; put it in quotes"
    return f"expected {said(kinds)}, got {_shown(value)}{hint}"


def _meant(value: Any, kind: Kind) -> bool:
    if kind.name == "list":
        return isinstance(value, (list, tuple))
    return kind.name == "mapping" and isinstance(value, Mapping)


def _misfit_inside(value: Any, kind: Kind) -> str | None:
    if kind.each and len(value) != len(kind.items):
        return f"expected {len(kind.items)} values, got {_shown(value)}"
    pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
    for place, item in pairs:
        reason = misfit(item, kind.items[place] if kind.each else kind.items[0])
        if reason is not None:
            return f"entry {place}: {reason}"
    return None


def _fits(value: Any, kind: Kind) -> bool:
    if kind.name == "any" or not isinstance(value, _VALUES) or _is_node(value):
        return True
    if kind.name == "choice":
        return any(value == choice and type(value) is type(choice) for choice in kind.choices)
    if kind.name in ("list", "mapping"):
        return _meant(value, kind) and (not kind.items or _misfit_inside(value, kind) is None)
    if kind.name == "object":
        return False
    if isinstance(value, float) and math.isnan(value):
        return False
    return _SCALARS[kind.name](value)


def as_counted(value: Any, kinds: Sequence[Kind]) -> Any:
    """A value that fits, with ``1e5`` as a whole number where only whole numbers belong."""
    names = {kind.name for kind in kinds}
    if isinstance(value, float) and value.is_integer() and "whole number" in names:
        return value if names & {"any", "number"} else int(value)
    if isinstance(value, list):
        for kind in kinds:
            if kind.name == "list" and kind.items:
                items = kind.items if kind.each else kind.items * len(value)
                return [as_counted(v, i) for v, i in zip(value, items, strict=True)]
    return value


def _is_node(value: Any) -> bool:
    return isinstance(value, Mapping) and "target" in value


_VALUES = (type(None), bool, int, float, str, bytes, list, tuple, Mapping)
"""What YAML holds; other objects come from programs."""
_SCALARS: Mapping[str, Any] = {
    "null": lambda value: value is None,
    "true or false": lambda value: isinstance(value, bool),
    "whole number": lambda value: (
        type(value) is int or (isinstance(value, float) and value.is_integer())
    ),  # 1e6
    "number": lambda value: type(value) in (int, float),
    "text": lambda value: isinstance(value, str),
}


def said(kinds: Sequence[Kind]) -> str:
    """Kinds in words, such as ``a number or null``."""
    words: list[str] = []
    for kind in kinds:
        if kind.name == "choice":
            words += [str(choice) for choice in kind.choices]
        elif kind.name == "object":
            words.append(f"a node with a target ({kind.label})")
        else:
            words.append(_WORDS[kind.name])
    words = list(dict.fromkeys(words))
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


_WORDS = {
    "null": "null",
    "true or false": "true or false",
    "whole number": "a whole number",
    "number": "a number",
    "text": "text",
    "list": "a list",
    "mapping": "a mapping",
}


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
