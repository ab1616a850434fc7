"""What annotations admit, as far as sources tell, and what is said of a value that does not fit."""

from __future__ import annotations

import math
from typing import Any

import pytest

from ldm.config.kinds import ANY, kinds_of, misfit, takes_text
from ldm.signatures import AbsentError

MODULE = """
from __future__ import annotations
import enum
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Optional, TypeVar, Union
from torch import Tensor, nn

T = TypeVar("T")
Size = Union[int, Sequence[int]]
Where = Literal["here", "there"]

class Thing: ...
class Colour(str, enum.Enum): ...

class Base:
    def __init__(self, whole: int, real: float = 1.0, flag: bool = False): ...

class Taker(Base):
    def __init__(self, text: str, path: str | Path, size: Size, where: Where | None, pair:
                 tuple[float, float], many: tuple[str, ...], made: nn.Module, thing: Thing | None,
                 call: Callable[[int], int], table: Mapping[str, int], number: "Optional[float]",
                 either: int | str, nested: Sequence[tuple[int, int]], *, tensor: float | Tensor,
                 anything: Any = None, open=3, generic: T = None, colour: Colour = None): ...
"""


@pytest.fixture(autouse=True)
def _module(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "module_of_kinds.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("text", ["", "7"], [7, None, True, ["a"], {}, 1.5, {"a": 1}]),
        ("path", ["a/b"], [7, None, ["a"]]),
        ("size", [1, [1, 2], [], 2.0], ["1", 1.5, None, True, [1, "2"], [1.5]]),
        ("where", ["here", None], ["her", 1, True, ["here"]]),
        ("pair", [[0.9, 0.999], [0, 1]], [[0.9], [1, 2, 3], 0.9, "ab", None, [None, 1], [True, 1]]),
        ("many", [[], ["a"], ["a", "b"]], ["ab", [1], None]),
        ("made", [{"target": "a.b"}], [None, 3, "a.b", [], {}, {"params": {}}, True]),
        ("thing", [{"target": "a.b"}, None], [3, "a.b", [], {}]),
        ("call", [{"target": "a.b"}], [3, "print", None]),
        ("table", [{}, {"a": 1}, {"target": "a.b"}], [[], "a", 3, {"a": "b"}]),
        ("number", [1, 1.5, None, math.inf], ["1", "1e-4", True, math.nan, [], {}]),
        ("either", [1, "a"], [None, 1.5, True, []]),
        ("nested", [[], [[1, 2]]], [[1, 2], [[1]], [[1, "2"]]]),
        ("tensor", [1, 0.5, {"target": "a.b"}], ["1", None, math.nan]),
        *((key, [None, 1, "a", [], {}, True], []) for key in ("anything", "open", "generic")),
        ("colour", ["red", 1, None], []),
    ],
)
def test_values_fit_or_do_not(key: str, good: list[Any], bad: list[Any]) -> None:
    kinds = kinds_of("module_of_kinds.Taker", key)
    for value in good:
        assert misfit(value, kinds) is None, value
    for value in bad:
        assert "got" in (misfit(value, kinds) or ""), value


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("text", 7, "expected text, got 7; put it in quotes"),
        ("pair", [0.9], "expected 2 values, got [0.9]"),
        ("pair", ["a", 0.9], "entry 0: expected a number, got 'a'"),
        ("where", "hre", "expected here, there or null, got 'hre'"),
        ("made", 3, "expected a node with a target (Module), got 3"),
        ("number", "1e-4", "expected a number or null, got '1e-4'"),
    ],
)
def test_the_message_says_what_is_expected(key: str, value: Any, message: str) -> None:
    assert misfit(value, kinds_of("module_of_kinds.Taker", key)) == message


def test_objects_of_programs_are_left_alone() -> None:
    assert misfit(object(), kinds_of("module_of_kinds.Taker", "text")) is None


def test_text_is_what_was_typed_where_text_alone_belongs() -> None:
    takers = {
        key: takes_text(kinds_of("module_of_kinds.Taker", key))
        for key in ("text", "path", "size", "where", "either", "number", "anything", "nothing")
    }
    assert [key for key, value in takers.items() if value] == ["text", "path", "where"]
    assert takes_text(kinds_of("ldm.data.ImageFolder", "root"))
    assert not takes_text(kinds_of("ldm.data.ImageFolder", "resize"))  # a number or a name


def test_what_is_unknown_admits_everything() -> None:
    for name in ("no_package.f", "math.floor", "module_of_kinds", "module_of_kinds.T"):
        assert kinds_of(name, "x") == ANY
    with pytest.raises(AbsentError):
        kinds_of("ldm.data.ImageFoldr", "root")
