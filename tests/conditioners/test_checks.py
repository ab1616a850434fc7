from __future__ import annotations

import pytest
import torch

from ldm.conditioners.base import check_ids, check_tensor, readable
from ldm.errors import DataError


def test_accelerators_are_not_waited_for_in_training() -> None:
    """The meta device stands for one: its values cannot be read at all."""
    value = torch.zeros(3, dtype=torch.int64, device="meta")
    assert not readable(value)
    check_ids(value, 2, "x", "id")
    with torch.no_grad():
        assert readable(value)
    assert readable(torch.zeros(3))


def test_the_first_wrong_id_is_named() -> None:
    check_ids(torch.tensor([[0, 4], [9, 1]]), 5, "x", "id", others=(9,))
    check_ids(torch.zeros(0).long(), 5, "x", "id")
    with pytest.raises(DataError, match=r"^'x': id 7 is outside 0 to 4 or 9$"):
        check_ids(torch.tensor([[0, 7], [9, 5]]), 5, "x", "id", others=(9,))
    with pytest.raises(DataError, match=r"^'x': id -1 is outside 0 to 4$"):
        check_ids(torch.tensor([-1]), 5, "x", "id")


def test_shapes_and_numbers() -> None:
    check_tensor(torch.zeros(2, 3, 4), "x", "float", 3, None)
    check_tensor(torch.zeros(2).long(), "x", "ids")
    message = r"^'x' must be int64 ids of shape \(B, 3, any\), got int32 \(2, 3, 4\)$"
    with pytest.raises(DataError, match=message):
        check_tensor(torch.zeros(2, 3, 4).int(), "x", "ids", 3, None)
