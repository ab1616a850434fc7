from __future__ import annotations

import torch

from ldm.conditioners.base import frozen
from ldm.conditioners.class_label import ClassLabel


def test_nothing_learns() -> None:
    label = ClassLabel(10, 4)
    assert frozen(label) is label
    assert label.frozen
    assert label.in_checkpoint
    assert not label.training
    assert not label(torch.tensor([1])).requires_grad
