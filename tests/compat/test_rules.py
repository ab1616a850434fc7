from __future__ import annotations

from typing import Any

import pytest

from ldm.compat.rules import Ignored, Inert, Renamed, Required, Same, apply, node, split
from ldm.errors import ConfigError

TABLE = {
    "ch": Required("channels"),
    "depth": Renamed("layers", 2),
    "dropout": Same(),
    "dims": Inert((2, None)),
    "device": Ignored("moves with the module"),
}


def test_every_rule() -> None:
    given = {"ch": 3, "dropout": 0.1, "dims": 2, "device": "cuda"}
    assert apply(TABLE, given, "a.B", "p") == {"channels": 3, "layers": 2, "dropout": 0.1}
    assert apply(TABLE, {"ch": 3, "depth": 5}, "a.B", "p") == {"channels": 3, "layers": 5}


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"ch": 3, "dept": 1}, "p.dept: unknown key of a.B; did you mean 'depth'?"),
        ({"ch": 3, "zzz": 1}, "p.zzz: unknown key of a.B"),
        (None, "p: missing key ch of a.B"),
        (
            {"ch": 3, "dims": 3},
            "p.dims: a.B with dims=3 has no native counterpart, only 2 or None has",
        ),
        ([1], "p: expected the arguments of a.B, got [1]"),
    ],
)
def test_messages(params: Any, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        apply(TABLE, params, "a.B", "p")
    assert str(error.value) == message


def test_nodes() -> None:
    assert node("a.B", x=1, y=None) == {"target": "a.B", "params": {"x": 1}}
    assert split({"target": "a.B", "params": {"x": 1}}, "p") == ("a.B", {"x": 1})
    with pytest.raises(ConfigError, match=r"^p\.x: unknown key beside target and params$"):
        split({"target": "a.B", "x": 1}, "p")
    with pytest.raises(ConfigError, match=r"^p: expected a node with target and params, got 'a'$"):
        split("a", "p")
