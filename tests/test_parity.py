"""The weight formula of the parity data, as implemented by the tests."""

from __future__ import annotations

import pytest

from tests.parity import assert_close, formula_value, load_case

CASE = load_case("formula_check")


@pytest.mark.parametrize("key", sorted(CASE.config["shapes"]))
def test_formula_values(key: str) -> None:
    value = formula_value(key, CASE.config["shapes"][key], CASE.config["seed"])
    assert_close(value, CASE.outputs[key], rtol=1e-7)
