from __future__ import annotations

import pytest


@pytest.fixture(scope="module", autouse=True)
def _no_curves(_without_curves: None) -> None:
    """``test_run.py`` has the one run whose curves are drawn."""
