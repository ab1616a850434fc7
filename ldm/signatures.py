"""Which arguments a callable takes, and of which kinds, read from its source without importing it.

An import of PyTorch or Lightning costs seconds, a misspelt key should not. Said is only what the
source says beyond doubt; where decorators, metaclasses, generated code or conditions may have a
say, nothing is, and whoever builds the object finds out.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import pkgutil
from collections.abc import Iterator, Sequence
from inspect import Parameter
from pathlib import Path
from typing import Any, NamedTuple

_PACKAGE = __name__.partition(".")[0]
_INERT = {"_defaults_from_env_vars", "runtime_checkable", "final", "no_grad", "inference_mode"}
"""Decorators that leave the signature as it is."""
_BARE = {"object", "ABC", "Generic"}
"""Bases that bring no constructor."""
_Definition = ast.ClassDef | ast.FunctionDef


class AbsentError(LookupError):
    """This package has no such name.

    Attributes:
        name: the dotted name, up to where it leads nowhere.
        names: what it could have been.
    """

    def __init__(self, name: str, names: Sequence[str]) -> None:
        super().__init__(name)
        self.name, self.names = name, names


class _UnclearError(Exception):
    """The source alone does not tell."""


class Written(NamedTuple):
    """An annotation as it stands in a module.

    Attributes:
        module: the file.
        node: the expression; None: there is no annotation.
    """

    module: Path
    node: ast.expr | None


def parameters(name: str) -> list[Parameter] | None:
    """The parameters of the callable with this dotted name; of defaults only that there is one.

    Returns:
        As ``inspect.signature`` would list them, or None where the source leaves doubt. The
        annotation of each is a :class:`Written`, for ``ldm.config.kinds``.

    Raises:
        AbsentError: it would be in this package, which does not have it.
    """
    try:
        if not all(part.isidentifier() for part in name.split(".")):
            return None  # whoever builds it says so
        module, definition = _located(name)
        if isinstance(definition, ast.ClassDef):
            return _constructor(module, definition)
        return _arguments(module, definition)
    except _UnclearError:
        return None


def meaning(written: Written) -> Written | ast.ClassDef | None:
    """What a name in an annotation stands for: an alias's expression, a class, or unknown."""
    module, name = written.module, _word(written.node)
    try:
        for _ in range(8):
            value = _aliases(module).get(name)
            if value is not None:
                return Written(module, value)
            statement = _names(module).get(name)
            if isinstance(statement, ast.ClassDef):
                return statement
            if not isinstance(statement, ast.ImportFrom) or statement.level:
                return None
            (name,) = (a.name for a in statement.names if (a.asname or a.name) == name)
            module = _module(str(statement.module))
    except _UnclearError:
        pass
    return None


@functools.cache
def _aliases(file: Path) -> dict[str, ast.expr]:
    """What a module assigns once, at its top level, by name."""
    found: dict[str, ast.expr] = {}
    for statement in _body(file):
        targets = getattr(statement, "targets", None) or [getattr(statement, "target", None)]
        value = getattr(statement, "value", None)
        if isinstance(statement, ast.Assign | ast.AnnAssign) and value is not None:
            for target in targets:
                found[_word(target)] = value
    return found


def _located(name: str) -> tuple[Path, _Definition]:
    """The class or function that a dotted name leads to, and the module that defines it."""
    first, *rest = name.split(".")
    file = _module(first)
    while rest and (inner := _inner(file, rest[0])):
        file = inner
        del rest[0]
    if first == _PACKAGE and rest and not _names(file).keys() & {rest[0], "*"}:
        modules = pkgutil.iter_modules([str(file.parent)] if file.stem == "__init__" else [])
        public = [key for key in _names(file) if not key.startswith("_")]
        absent = name.removesuffix(".".join(["", *rest[1:]]))
        raise AbsentError(absent, [*public, *(module.name for module in modules)])
    if len(rest) != 1:  # a module, or of a class
        raise _UnclearError
    return _definition(file, rest[0])


def _definition(file: Path, name: str, hops: int = 8) -> tuple[Path, _Definition]:
    """The class or function that a module calls so, followed through imports."""
    names = _names(file)
    statement, order = names.get(name), list(names)
    if statement is None or "*" in order[order.index(name) :]:  # which may replace it
        raise _UnclearError
    if isinstance(statement, _Definition):
        return file, statement
    if not isinstance(statement, ast.ImportFrom) or statement.level or not hops:
        raise _UnclearError
    (original,) = (a.name for a in statement.names if (a.asname or a.name) == name)
    return _definition(_module(str(statement.module)), original, hops - 1)


def _module(name: str) -> Path:
    first, *rest = name.split(".")
    try:
        spec = importlib.util.find_spec(first)
    except (ImportError, ValueError):
        spec = None
    file = Path(str(spec.origin)) if spec is not None else None
    for part in rest:
        file = file and _inner(file, part)
    if file is None or file.suffix != ".py":
        raise _UnclearError
    return file


def _inner(file: Path, name: str) -> Path | None:
    """The module of this name, if ``file`` is a package that has one."""
    files = (file.with_name(name) / "__init__.py", file.with_name(f"{name}.py"))
    return next((f for f in files if f.is_file()), None) if file.name == "__init__.py" else None


def _body(file: Path) -> list[ast.stmt]:
    try:
        return ast.parse(file.read_bytes()).body
    except (OSError, SyntaxError, ValueError) as error:
        raise _UnclearError from error


@functools.cache
def _names(file: Path) -> dict[str, ast.stmt | None]:
    names: dict[str, ast.stmt | None] = {}
    for name, statement in _bindings(_body(file)):  # in the order of the last
        names[name] = None if names.pop(name, names) is not names else statement
    return names


def _bindings(body: Sequence[ast.stmt]) -> Iterator[tuple[str, ast.stmt | None]]:
    for statement in body:
        plain = isinstance(statement, _Definition | ast.Import | ast.ImportFrom)
        for node in (statement,) if plain else ast.walk(statement):
            if isinstance(node, _Definition | ast.AsyncFunctionDef):
                yield node.name, statement if plain else None
            elif isinstance(node, ast.Import | ast.ImportFrom):
                for alias in node.names:
                    name = alias.asname or alias.name.partition(".")[0]
                    yield name, statement if plain else None
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id, None
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                if node.attr != "__doc__":
                    yield _word(node.value), None
            elif isinstance(node, ast.Call) and _word(node) == "setattr" and node.args:
                yield _word(node.args[0]), None


def _arguments(module: Path, function: ast.FunctionDef) -> list[Parameter]:
    given = function.args
    if given.posonlyargs or {_word(d) for d in function.decorator_list} - _INERT:
        raise _UnclearError
    defaults = [None] * (len(given.args) - len(given.defaults)) + given.defaults
    result = [
        _parameter(a.arg, d, Written(module, a.annotation))
        for a, d in zip(given.args, defaults, strict=True)
    ]
    if given.vararg:
        result.append(Parameter(given.vararg.arg, Parameter.VAR_POSITIONAL))
    for argument, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        found = _parameter(argument.arg, default, Written(module, argument.annotation))
        result.append(found.replace(kind=Parameter.KEYWORD_ONLY))
    if given.kwarg:
        result.append(Parameter(given.kwarg.arg, Parameter.VAR_KEYWORD))
    return result


def _constructor(module: Path, node: ast.ClassDef) -> list[Parameter]:
    """The parameters of a class: those of its ``__init__``, its fields, or those of its base."""
    own = dict(_bindings(node.body))
    init = own.get("__init__")
    made = _dataclass(module, node)
    _check_making(module, node)
    if {_word(d) for d in node.decorator_list} - {"dataclass", *_INERT}:
        raise _UnclearError
    if isinstance(init, ast.FunctionDef):
        return _arguments(module, init)[1:]
    if "__init__" in own:
        raise _UnclearError
    if made:
        return list(_fields(module, node).values())
    bases = [base for base in node.bases if _word(base) not in _BARE]
    if len(bases) > 1:
        raise _UnclearError
    return _constructor(*_base(module, bases[0])) if bases else []


def _check_making(module: Path, node: ast.ClassDef) -> None:
    """Raises where more than ``__init__`` has a say, as far as the bases are found."""
    if node.keywords or {"__new__", "__init_subclass__"} & dict(_bindings(node.body)).keys():
        raise _UnclearError
    for base in _bases(node):
        try:
            found = _base(module, base)
        except _UnclearError:  # such as of ``nn.Module``
            continue
        _check_making(*found)


def _bases(node: ast.ClassDef) -> list[ast.expr]:
    return [base for base in node.bases if _word(base) not in {"Protocol", *_BARE}]


def _dataclass(module: Path, node: ast.ClassDef) -> list[ast.expr]:
    """The decorators called ``dataclass``, which have to be that of the standard library."""
    made = [d for d in node.decorator_list if _word(d) == "dataclass"]
    for decorator in made:
        first = ast.unparse(getattr(decorator, "func", decorator)).partition(".")[0]
        source = ast.unparse(_names(module).get(first) or ast.Pass())
        if not source.startswith(("from dataclasses ", "import dataclasses")):
            raise _UnclearError
    return made


def _fields(module: Path, node: ast.ClassDef) -> dict[str, Parameter]:
    """What the constructor of a dataclass takes; of another class, what its bases pass on."""
    fields: dict[str, Parameter] = {}
    for base in reversed(_bases(node)):
        fields |= _fields(*_base(module, base))
    made, names = _dataclass(module, node), [name for name, _ in _bindings(node.body)]
    if made and ("init" in _keywords(*made) or len(names) > len({*names})):
        raise _UnclearError
    for statement in node.body if made else ():
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            text = isinstance(getattr(statement, "value", None), ast.Constant)
            if text or isinstance(statement, ast.Assign | ast.FunctionDef | ast.Pass):
                continue
            raise _UnclearError
        name, kind, value = statement.target.id, _word(statement.annotation), statement.value
        given = _keywords(value) if _word(value) == "field" else {"default"} if value else set()
        if kind == "KW_ONLY" or "init" in given or isinstance(statement.annotation, ast.Constant):
            raise _UnclearError
        if kind != "ClassVar":
            inherited = None if value or name not in fields else fields[name].default
            default = inherited or given & {"default", "default_factory"} or None
            fields[name] = _parameter(name, default, Written(module, statement.annotation))
    return fields


def _base(module: Path, base: ast.expr) -> tuple[Path, ast.ClassDef]:
    base = base.value if isinstance(base, ast.Subscript) else base
    if isinstance(base, ast.Name):
        module, definition = _definition(module, base.id)
        if isinstance(definition, ast.ClassDef):
            return module, definition
    raise _UnclearError


def _parameter(name: str, default: object, annotation: Written) -> Parameter:
    value = Parameter.empty if default is None else default
    return Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, default=value, annotation=annotation)


def _word(node: Any) -> str:
    """``dataclass`` of ``@dataclasses.dataclass(frozen=True)``; nothing where there is no name."""
    while isinstance(node, ast.Call | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    return str(getattr(node, "id", getattr(node, "attr", "")))


def _keywords(*nodes: Any) -> set[str | None]:
    """Of calls: what they are given by name."""
    return {k.arg for node in nodes if isinstance(node, ast.Call) for k in node.keywords}
