"""The option that chooses the backgrounds of synthetic scenes."""

from __future__ import annotations

import pytest

from ldm.data.scenes.dataset import SceneDataset
from ldm.errors import DataError


def test_only_the_chosen_backgrounds_appear() -> None:
    scenes = SceneDataset(16, 50, backgrounds=["plain", "stripes"])
    kinds = {scenes.scene(i).background.kind for i in range(50)}
    assert kinds == {"plain", "stripes"}


def test_an_unknown_background_is_named() -> None:
    with pytest.raises(DataError, match=r"backgrounds \['lava'\] must be some of plain"):
        SceneDataset(16, 5, backgrounds=["lava"])
