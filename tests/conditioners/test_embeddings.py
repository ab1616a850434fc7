from __future__ import annotations

import pytest
import torch

from ldm.conditioners.embeddings import Embeddings
from ldm.errors import DataError


def test_vectors_are_handed_on() -> None:
    value = torch.randn(2, 5, 8)
    model = Embeddings(8)
    assert model(value) is value
    assert torch.equal(model(value[:, 0]), value[:, :1])
    assert (model.key, model.route, model.dim) == ("neighbours", "crossattn", 8)
    assert not model.state_dict()


def test_null_is_zero() -> None:
    model = Embeddings(8, drop_prob=0.1)
    for value in (torch.randn(3, 5, 8), torch.randn(3, 8)):
        null = model.null(3, value)
        assert torch.equal(null, torch.zeros_like(value))
        assert model(null).shape == model(value).shape


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.randn(2, 5, 7), r"'neighbours' must be float of shape \(B, any, 8\), got .* 7\)"),
        (torch.zeros(2, 5, 8).long(), "got int64"),
        (torch.randn(2, 1, 5, 8), "must be float of shape"),
        (torch.randn(2, 21, 8), "holds 21 embeddings per sample, more than max_tokens=20"),
    ],
)
def test_other_values_are_refused(value: torch.Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Embeddings(8, max_tokens=20)(value)
