"""What tests of several folders share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def _without_curves() -> Iterator[None]:
    """Runs leave their curves undrawn: the picture takes longer than the few steps of a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ldm.training.callbacks.images.draw_curves", lambda *_: None)
        yield
