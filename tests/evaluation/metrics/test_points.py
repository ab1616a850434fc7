from __future__ import annotations

import numpy as np
import pytest

from ldm.evaluation.metrics.points import fit

SHAPE = np.array([[0, 0], [1, 0], [2, 0], [3, 0]], np.float32)


def test_a_perfect_fit() -> None:
    assert fit(SHAPE, SHAPE, 0.1, 0.1) == (1.0, 1.0, 0.0)


def test_strays_and_gaps() -> None:
    points = np.array([[0, 0], [0, 0.1], [1, 0], [0, 5]], np.float32)
    result = fit(SHAPE, points, tolerance=0.2, nearby=0.5)
    assert result.inside == 0.75  # one stray
    assert result.covered == 0.5  # half the shape is empty
    assert result.chamfer == pytest.approx((0 + 0.1 + 0 + 5) / 4 + (0 + 0 + 1 + 2) / 4)
