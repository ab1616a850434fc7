from __future__ import annotations

from typing import Any

import pytest
import torch

from ldm.conditioners.class_label import ClassLabel
from ldm.errors import ConfigError, DataError
from tests.parity import assert_close, load_case


def test_golden() -> None:
    case = load_case("class_embedder")
    model = ClassLabel(case.config["n_classes"], case.config["embed_dim"])
    model.load_state_dict(case.weights)
    assert_close(model(case.inputs["class_label"]), case.outputs["c"], rtol=0)


@pytest.mark.parametrize(("null_index", "rows"), [(None, 10), (3, 10), (10, 11)])
def test_rows_of_the_table(null_index: int | None, rows: int) -> None:
    model = ClassLabel(10, 4, null_index=null_index)
    assert {k: tuple(v.shape) for k, v in model.state_dict().items()} == {
        "embedding.weight": (rows, 4)
    }


def test_null_can_be_embedded() -> None:
    model = ClassLabel(10, 4, drop_prob=0.1, null_index=10)
    null = model.null(3, like=torch.zeros(5).long())
    assert null.tolist() == [10, 10, 10]
    assert model(null).shape == (3, 1, 4)


def test_route_adm_hands_on_the_ids() -> None:
    model = ClassLabel(10, route="adm", null_index=10)
    ids = torch.tensor([1, 2])
    assert model(ids) is ids
    assert not model.state_dict()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 4, "drop_prob": 0.1}, "set null_index=10"),
        ({"dim": 4, "null_index": 11}, r"in \[0, 10\], got 11"),
        ({"dim": 4, "route": "concat"}, "no route 'concat'"),
        ({"dim": 4, "route": "adm"}, "'adm' must be without"),
        ({}, "needs the width of the token"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ClassLabel(10, **options)


def test_guidance_without_a_null_class_is_refused() -> None:
    with pytest.raises(ConfigError, match="null_index=10"):
        ClassLabel(10, 4).null(1, torch.zeros(1).long())


@pytest.mark.parametrize("labels", [torch.zeros(2), torch.zeros(2, 1).long()])
def test_values_that_are_no_ids_are_refused(labels: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="ids of shape"):
        ClassLabel(10, 4)(labels)


@pytest.mark.parametrize("route", ["crossattn", "adm"])
@pytest.mark.parametrize("wrong", [-1, 10, 12])
def test_an_unknown_class_is_named(route: Any, wrong: int) -> None:
    dim = 4 if route == "crossattn" else None
    model = ClassLabel(10, dim, route=route)
    with pytest.raises(DataError, match=f"^'class_label': class id {wrong} is outside 0 to 9$"):
        model(torch.tensor([3, wrong]))


def test_no_class_is_an_id_too() -> None:
    model = ClassLabel(10, 4, null_index=10)
    model(torch.tensor([3, 10]))
    with pytest.raises(DataError, match="class id 11 is outside 0 to 9 or 10"):
        model(torch.tensor([11]))
