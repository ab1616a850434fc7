from __future__ import annotations

import pytest
import torch

from ldm.evaluation.metrics.alignment import class_accuracy


def test_closed_forms() -> None:
    logits = torch.arange(10.0).repeat(10, 1)  # class 9 is the likeliest, then 8, ...
    accuracy = class_accuracy(logits, torch.arange(10))
    assert accuracy == (0.1, 0.5)
    assert class_accuracy(logits, [9] * 10) == (1, 1)
    assert class_accuracy(logits, [5] * 10) == (0, 1)
    assert class_accuracy(logits, [4] * 10) == (0, 0)
    assert class_accuracy(torch.eye(3), [0, 1, 0]) == (pytest.approx(2 / 3), 1)


def test_who_tells_nothing_apart_gets_nothing() -> None:
    assert class_accuracy(torch.zeros(4, 10), [0, 1, 2, 3]) == (0, 0)


def test_equals_counting_in_sorted_lists() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 20, generator=generator)
    labels = torch.randint(0, 20, (200,), generator=generator)
    order = logits.argsort(1, descending=True).tolist()
    for k, got in zip((1, 5), class_accuracy(logits, labels), strict=True):
        right = [label in row[:k] for row, label in zip(order, labels.tolist(), strict=True)]
        assert got == sum(right) / 200


def test_wrong_input() -> None:
    logits = torch.zeros(3, 4)
    for labels in ([0, 1], [], [[0], [1], [2]]):
        with pytest.raises(ValueError, match=r"are not \(N, classes\)"):
            class_accuracy(logits, torch.tensor(labels))
    for labels in ([0, 1, 4], [-1, 0, 0]):
        with pytest.raises(ValueError, match="are not classes of a classifier of 4"):
            class_accuracy(logits, labels)
    with pytest.raises(ValueError, match="are not classes"):
        class_accuracy(logits, torch.zeros(3))
    with pytest.raises(ValueError, match="NaN"):
        class_accuracy(logits * torch.nan, [0, 1, 2])
