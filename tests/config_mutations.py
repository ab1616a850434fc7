"""Configs made wrong by chance, reproducibly: what a slip of a hand or a bad file may hold.

``mutations`` changes one place of a tree of plain values and gives the text of a YAML file;
``MALFORMED`` are files that are wrong as a whole; ``override_mutations`` are command lines.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 1.5, -0.5, 10**12, 10**30, -(10**12), 1e308, 1e-320),
    *(float("nan"), float("inf"), float("-inf"), "", " ", "abc", "1e-4", "1", "${nowhere}", "???"),
    *("${oc.env:NO_SUCH_VARIABLE}", "${", "ldm", "a\nb\n", "\u00e9\u0301 \U0001f600", "x" * 5000),
    *([], [1], [None], [[]], ["a", "b"], [1, [2, [3]]], [1.5, -1], [True], [{"target": "ldm"}]),
    *({}, {"a": 1}, {1: 2}, {None: 3}, {True: 4}, {1.5: 5}, {"": 6}, {"a.b": 7}, {"a": {"b": []}}),
    *({"target": 5}, {"target": None}, {"target": {}}, {"target": []}, {"target": ["ldm"]}),
    *({"target": "ldm"}, {"target": ""}, {"target": "."}, {"target": "a..b"}, {"target": "a b.c"}),
    *({"target": "os.getcwd"}, {"target": "os.path"}, {"target": "os.nothing.x"}),
    *({"target": "no_such_package.Thing"}, {"target": "ldm.data.ImageFolder"}),
    *({"target": "ldm.data.Nothing"}, {"target": "ldm.__doc__"}, {"target": "builtins.int"}),
    *({"target": "builtins.dict"}, {"target": "builtins.object"}, {"target": "math.sqrt"}),
    *({"target": "collections.OrderedDict"}, {"target": "torch.nn.Identity"}),
    *({"target": "sys.exit"}, {"target": "torch.nn.Linear", "params": [1, 2]}),
    *({"target": "torch.nn.Linear", "params": {"in_features": -1, "out_features": "a"}},),
    *({"target": "os.getcwd", "partial": True}, {"target": "os.getcwd", "partial": "yes"}),
    *({"params": {}}, {"params": 3}, {"target": "os.getcwd", "params": None, "extra": 1}),
    *({"target": "torch.optim.Adam"}, {"target": "torch.optim.Adam", "params": {"lr": -1}}),
    *({"target": "json.loads", "params": {"s": "{"}}, {"target": "builtins.open"}),
)
"""What is put in the place of a value."""

RAW = (
    *("2020-01-01", "2020-01-01 10:00:00", "010", "0o17", "0x1f", "1:30", "190:20:30", "1_000"),
    *("!!binary aGVsbG8=", "!!binary ###", "!!python/object:os.system {}", "!!python/tuple [1, 2]"),
    *("!!python/name:os.system", "!!set {a, b}", "!!omap [a: 1]", "!!timestamp x", "!!float abc"),
    *("!!int abc", "!mine {a: 1}", "!!null x", "!!bool 7", "yes", "No", "~", ".Inf", "+.inf", "1."),
    *("&a [*a]", "&a {b: *a}", "*nowhere", "@here", "`here`", "%a", "[1, 2", "{a: 1", '"open', "'"),
    *(
        "- a",
        "a: b: c",
        "a\tb",
        "\tx",
        "| x",
        ">",
        "? a",
        "[a, b]: c",
        "{[1, 2]: 3}",
        "{{a: 1}: 2}",
    ),
    *("\x00", "\x07", "\ufeffx", "\ud7ff", "\\x", '"\\q"', '"\\x41"', '"\\0"', "#", "---", "..."),
    *("{a: 1, a: 2}", "{<<: 3}", "{<<: [1]}", "<<", "=", "${a", "${a.b[", "${.}", "${..}", "${::}"),
    *(
        "${oc.decode:x",
        "${oc.create:{a: 1}}",
        "'${oc.decode:\"[\"}'",
        "${a:b}",
        "\\${x}",
        "$",
        "${}",
    ),
)
"""What is written in the place of a value, as text."""


def _nested(depth: int, opening: str, closing: str) -> str:
    return "a: " + opening * depth + closing * depth + "\n"


def _laughs() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for k in range(1, 12):
        lines.append(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]")
    return "\n".join(lines) + "\n"


MALFORMED: dict[str, bytes] = {
    "empty": b"",
    "comments": b"# nothing\n# here\n",
    "spaces": b"   \n\n",
    "null": b"null\n",
    "list": b"- a\n- b\n",
    "number": b"3\n",
    "text": b"hello\n",
    "boolean": b"true\n",
    "date": b"2020-01-01\n",
    "two documents": b"a: 1\n---\nb: 2\n",
    "tab": b"a:\n\tb: 1\n",
    "unclosed list": b"a: [1, 2\n",
    "unclosed mapping": b"a: {b: 1\n",
    "unclosed text": b'a: "b\n',
    "at": b"a: @b\n",
    "percent": b"%a: b\n",
    "directive": b"%YAML 9.9\n---\na: 1\n",
    "nul": b"a: \x00\n",
    "bell": b"a: \x07\n",
    "binary": bytes(range(256)),
    "utf-16": "a: 1\n".encode("utf-16"),
    "utf-16 without mark": "a: 1\n".encode("utf-16-le"),
    "utf-32": "a: 1\n".encode("utf-32"),
    "latin-1": "a: caf\u00e9\n".encode("latin-1"),
    "surrogate": b"a: \xed\xa0\x80\n",
    "escaped surrogate": b'a: "\\ud800"\n',
    "deep list": _nested(100_000, "[", "]").encode(),
    "deep mapping": _nested(100_000, "{a: ", "}").encode(),
    "rather deep list": _nested(400, "[", "]").encode(),
    "rather deep mapping": _nested(120, "{a: ", "}").encode(),
    "deep block": "".join(" " * k + "a:\n" for k in range(2000)).encode(),
    "open brackets": b"[" * 100_000,
    "circle of lists": b"a: &a [*a]\n",
    "circle of mappings": b"a: &a {b: *a}\n",
    "circle of all": b"&a\nb: *a\n",
    "billion laughs": _laughs().encode(),
    "unknown anchor": b"a: *b\n",
    "duplicate": b"a: 1\na: 2\n",
    "duplicate deep down": b"a: {b: {c: 1, c: 2}}\n",
    "list as key": b"? [a, b]\n: 1\n",
    "mapping as key": b"? {a: b}\n: 1\n",
    "number as key": b"1: 2\n",
    "null as key": b"null: 2\n~: 3\n",
    "boolean as key": b"yes: 2\nno: 3\n",
    "date as key": b"2020-01-01: 2\n",
    "bytes as key": b"!!binary aGk=: 2\n",
    "same key as text and number": b"1: 2\n'1': 3\n",
    "object": b"!!python/object/apply:os.getcwd []\n",
    "unknown tag": b"!mine {a: 1}\n",
    "merge of a number": b"a:\n  <<: 3\n",
    "set": b"!!set {a, b}\n",
    "base of a number": b"base: 3\n",
    "base of itself": b"base: config.yaml\n",
    "base that is absent": b"base: nothing.yaml\n",
    "base of nul": b'base: "a\\0b"\n',
    "base of a folder": b"base: .\n",
    "base without an end": b"base: " + b"x" * 5000 + b"\n",
    "interpolation of itself": b"a: ${a}\n",
    "circle of interpolations": b"a: ${b}\nb: ${a}\n",
    "interpolation of its parent": b"a: {b: '${a}'}\n",
    "interpolation that is unclosed": b"a: ${b\n",
    "long": b"a: " + b"x" * 3_000_000 + b"\n",
    "many": b"".join(b"k%d: 1\n" % k for k in range(500)),
}
"""Files that are wrong as a whole, by name."""


@dataclass(frozen=True)
class Mutation:
    """A changed config.

    Attributes:
        what: the change, for messages of tests.
        text: of the file.
    """

    what: str
    text: str


def mutations(tree: dict[str, Any], count: int, seed: int) -> Iterator[Mutation]:
    """Changes of one place each.

    Args:
        tree: plain values of a good config.
        count: how many.
        seed: of the choice.
    """
    draw = random.Random(seed)
    for _ in range(count):
        yield _mutation(tree, draw)


def replacements(tree: dict[str, Any], key: str) -> Iterator[Mutation]:
    """All values in the place of one.

    Args:
        tree: plain values of a good config.
        key: dotted name of the place.
    """
    path = tuple(int(part) if part.isdigit() else part for part in key.split("."))
    for value in VALUES:
        changed = copy.deepcopy(tree)
        _parent(changed, path)[path[-1]] = value
        yield Mutation(f"{key} := {_short(value)}", _dump(changed))
    for raw in RAW:
        yield _written(tree, path, raw)


def places(tree: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values of a tree, except that of itself."""
    pairs: Any = tree.items() if isinstance(tree, dict) else ()
    for key, value in enumerate(tree) if isinstance(tree, list) else pairs:
        yield (*above, key)
        yield from places(value, (*above, key))


def _mutation(tree: dict[str, Any], draw: random.Random) -> Mutation:
    path = _place(tree, draw)
    name, kind = ".".join(map(str, path)), draw.random()
    if kind < 0.15:
        return _written(tree, path, draw.choice(RAW))
    changed = copy.deepcopy(tree)
    parent, key = _parent(changed, path), path[-1]
    if kind < 0.25:
        del parent[key]
        return Mutation(f"{name} deleted", _dump(changed))
    if kind < 0.30:
        parent[key] = [parent[key]]
        return Mutation(f"{name} in a list", _dump(changed))
    if kind < 0.33:
        parent[key] = {draw.choice(["a", "params", "target"]): parent[key]}
        return Mutation(f"{name} in a mapping", _dump(changed))
    if kind < 0.40:
        other = _place(tree, draw)
        value = _parent(tree, other)[other[-1]]
        parent[key] = copy.deepcopy(value)
        return Mutation(f"{name} := that of {'.'.join(map(str, other))}", _dump(changed))
    if kind < 0.45 and isinstance(parent, dict):
        new = draw.choice([f"{key}s", str(key)[:-1], "target", "params", "partial", "", 3, None])
        parent[new] = parent.pop(key)
        return Mutation(f"{name} renamed to {new!r}", _dump(changed))
    if kind < 0.50:
        value = parent.pop(key)
        new = _place(changed, draw) if list(places(changed)) else ("x",)
        _parent(changed, new)[new[-1]] = value
        return Mutation(f"{name} moved to {'.'.join(map(str, new))}", _dump(changed))
    value = draw.choice(VALUES)
    parent[key] = value
    return Mutation(f"{name} := {_short(value)}", _dump(changed))


def _written(tree: dict[str, Any], path: tuple[Any, ...], raw: str) -> Mutation:
    changed, mark = copy.deepcopy(tree), "MARK-OF-THE-PLACE"
    _parent(changed, path)[path[-1]] = mark
    text = _dump(changed).replace(mark, raw)
    return Mutation(f"{'.'.join(map(str, path))} := {raw!r} as written", text)


def _place(tree: dict[str, Any], draw: random.Random) -> tuple[Any, ...]:
    """A random place; those near the top come as often as those far below."""
    every = list(places(tree))
    depth = draw.choice(sorted({len(path) for path in every}))
    return draw.choice([path for path in every if len(path) == depth])


def _parent(tree: Any, path: tuple[Any, ...]) -> Any:
    for key in path[:-1]:
        tree = tree[key]
    return tree


class _Dumper(yaml.SafeDumper):
    """Writes the same value twice, where it stands twice, rather than an anchor."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _dump(tree: Any) -> str:
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:60]}..."


def override_mutations(tree: dict[str, Any], count: int, seed: int) -> Iterator[str]:
    """Arguments of a command line that change a config, or try to.

    Args:
        tree: plain values of a good config.
        count: how many.
        seed: of the choice.
    """
    draw = random.Random(seed)
    texts = [_flow(value) for value in VALUES if value != "x" * 5000]
    for _ in range(count):
        name = ".".join(map(str, _place(tree, draw)))
        kind, value = draw.random(), draw.choice([*texts, *RAW])
        value = value.replace("\x00", "")  # no command line can hold it
        if kind < 0.1:
            name = f"{name}{draw.choice(['.x', '[0]', '.0', '.', '..', '[', ']', '[-1]', '.1e3'])}"
        elif kind < 0.2:
            name = draw.choice(["+", "++", "~", "-", " ", ".", "", "+."]) + name
        elif kind < 0.25:
            name = name[: draw.randrange(len(name) + 1)]
        yield f"{name}={value}"


def _flow(value: Any) -> str:
    text = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, allow_unicode=True, width=9999)
    return text.removesuffix("\n").removesuffix("\n...")
