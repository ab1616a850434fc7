"""What the sources say of arguments is what the imported objects say."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
from pathlib import Path
from typing import Any

import pytest

import ldm
from ldm.compat.compvis.config import is_published
from ldm.compat.moved import current_name
from ldm.config import check, instantiate
from ldm.errors import ConfigError
from ldm.signatures import AbsentError, parameters

ROOT = Path(__file__).parents[1]
OTHERS = (
    "pytorch_lightning.Trainer",
    "torch.optim.Adam",
    "torch.optim.AdamW",
    "torch.optim.SGD",
    "tests.test_config.Car",
    "tests.test_config.Garage",
)


def _in_files() -> set[str]:
    """What YAML files of the project, and in its documents, name."""
    files = (*ROOT.glob("configs/**/*.yaml"), *ROOT.glob("docs/*.md"), ROOT / "README.md")
    names = {n for file in files for n in re.findall(r"target: (ldm\.[\w.]+)", file.read_text())}
    return {current_name(name) for name in names if not is_published(name)}


def _in_modules() -> set[str]:
    """The callables of this library, by all the names that its modules have for them."""
    names = set()
    for module in pkgutil.walk_packages(ldm.__path__, "ldm."):
        if module.name != "ldm.__main__":
            found = vars(importlib.import_module(module.name)).items()
            own = [n for n, value in found if callable(value) and "ldm." in str(value.__module__)]
            names |= {f"{module.name}.{name}" for name in own if name[0] != "_"}
    return names


def _listed(values: Any) -> list[tuple[str, Any, bool]]:
    return [(value.name, value.kind, value.default is value.empty) for value in values]


def _imported(name: str) -> Any:
    module, _, last = name.rpartition(".")
    return getattr(importlib.import_module(module), last)


def test_sources_say_what_the_imported_objects_say() -> None:
    named = _in_files() | {*OTHERS}
    for name in sorted(named | _in_modules()):
        found, value = parameters(name), _imported(name)
        if found is None:
            assert name not in named or _is_open(value), name
        else:
            assert _listed(found) == _listed(inspect.signature(value).parameters.values()), name


def _is_open(value: Any) -> bool:
    """Whether building it refuses no key by its name, as where a protocol is the base."""
    kinds = [parameter.kind for parameter in inspect.signature(value).parameters.values()]
    return inspect.Parameter.VAR_KEYWORD in kinds


UNCLEAR = """
import abc
import functools
from dataclasses import dataclass, field, KW_ONLY, InitVar
from typing import ClassVar

def changed(function): return function

@changed
def decorated(a): ...

def twice(a): ...
def twice(b): ...

if True:
    def conditional(a): ...

partial = functools.partial(int, base=2)

class Meta(type): ...
class WithMeta(metaclass=Meta):
    def __init__(self, a): ...
class New:
    def __new__(cls, a): return object.__new__(cls)
class Error(ValueError): ...
class Assigned:
    __init__ = twice
@dataclass
class KeywordsOnly:
    a: int
    _: KW_ONLY
    b: int = 1
@dataclass
class InWords:
    a: "ClassVar[int]" = 3
@dataclass
class NotAll:
    a: int = field(init=False, default=3)
class Patched:
    def __init__(self, a): ...
Patched.__init__ = changed
class Set:
    def __init__(self, a): ...
for key in ["__init__"]:
    setattr(Set, key, changed)
@dataclass
class UnderIf:
    a: int
    if True:
        b: int = 1
@dataclass
class SetLater:
    a: int
    a = 3
class OfMeta(WithMeta):
    def __init__(self, a): ...
class OfNew(New):
    def __init__(self, a): ...
class Hook:
    def __init_subclass__(cls): cls.__init__ = changed
class OfHook(Hook):
    def __init__(self, a): ...
@dataclass
class FieldsOfHook(Hook):
    a: int
class lookalikes:
    dataclass = staticmethod(dataclass(kw_only=True))
@lookalikes.dataclass
class Lookalike:
    a: int
@lookalikes.dataclass
class LookalikeWithInit:
    def __init__(self, a): ...
from os.path import *
"""
CLEAR = '''
import dataclasses
from dataclasses import dataclass, field, InitVar
from typing import ClassVar, Generic, TypeVar
from {sibling} import *
from math import floor as decorated

T = TypeVar("T")

def function(a, b=1, *rest, c, d=2, **more): ...

@dataclass
class Base(Generic[T]):
    a: int
    kinds: ClassVar[int] = 3
    b: list[int] = field(default_factory=list)
@dataclass(order=True)
class Derived(Base[int]):
    c: InitVar[int] = 3
    a: int
class Plain(Derived): ...
class Nothing: ...
@dataclasses.dataclass
class Documented:
    """One."""
    a: int
    kind = 3
    def method(self): self.a = 3
class Own(Plain):
    def __init__(self, a): self.b = a
'''


def test_only_what_is_beyond_doubt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "unclear_module.py").write_text(UNCLEAR)
    (tmp_path / "clear_module.py").write_text(CLEAR.format(sibling="unclear_module"))
    (tmp_path / "broken_module.py").write_text("def f(:")
    try:
        unclear = importlib.import_module("unclear_module")
        for name in re.findall(r"^ *(?:def|class) (\w+)|^(\w+) =", UNCLEAR, flags=re.M):
            assert hasattr(unclear, "".join(name)) or "".join(name) == "__init__"
            assert parameters(f"unclear_module.{''.join(name)}") is None
        for name in ("function", "Base", "Derived", "Plain", "Nothing", "Documented", "Own"):
            found = parameters(f"clear_module.{name}")
            assert found is not None, name
            signature = inspect.signature(_imported(f"clear_module.{name}"))
            assert _listed(found) == _listed(signature.parameters.values()), name
    finally:
        sys.modules.pop("unclear_module", None)
        sys.modules.pop("clear_module", None)
    for name in (
        "broken_module.f",
        "no_package.f",
        "clear_module",
        "clear_module.Base.x",
        "math.floor",
    ):
        assert parameters(name) is None


@pytest.mark.parametrize(
    ("target", "params"),
    [
        ("ldm.data.ImageFoldr", {}),
        ("ldm.dta.ImageFolder", {}),
        ("ldm.data.folder.ImageFoldr", {}),
        ("ldm.data.folder.deeper.ImageFolder", {}),
        ("ldm.data.ImageFolder", {"root": "x", "size": 8, "corp": "random"}),
        ("ldm.data.ImageFolder", {"corp": "random"}),
        ("ldm.data.ImageFolder", {}),
        ("ldm.denoisers.UNet", {"chanels": 3}),
        ("torch.optim.Adam", {"lr": 1, "beta": 3}),
        ("ldm", {}),
        ("ldm.", {}),
        ("ldm.data.ImageFolder", [1]),
    ],
)
def test_the_message_is_that_of_building(target: str, params: Any) -> None:
    node = {"a": [{"target": target, "params": params}]}
    with pytest.raises(ConfigError) as built:
        instantiate(node)
    with pytest.raises(ConfigError) as checked:
        check(node)
    assert str(checked.value) == str(built.value)


def test_names_are_absent_from_this_package_only() -> None:
    with pytest.raises(AbsentError) as error:
        parameters("ldm.data.ImageFoldr")
    assert error.value.name == "ldm.data.ImageFoldr"
    assert {"ImageFolder", "folder"} <= {*error.value.names}
    for name in ("torch.optim.Adaam", "ldm.data.ImageFolder.nothing", "ldm.data.folder"):
        assert parameters(name) is None


def test_nodes_of_the_original_code_and_open_ones_are_left_alone() -> None:
    check({"target": "ldm.models.autoencoder.AutoencoderKL", "params": {"nix": 1}})
    check({"a": {"target": "mine.Nothing", "params": {"nix": 1}}, "b": [1, None, "x"]})
    check({"target": "torch.optim.Adam", "partial": True, "params": {"lr": 1}})
