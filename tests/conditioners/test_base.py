from __future__ import annotations

import pytest
import torch

from ldm.conditioners.base import Conditioner
from ldm.errors import ConfigError


def test_attributes() -> None:
    conditioner = Conditioner("mask", "concat", drop_prob=0.2)
    assert (conditioner.key, conditioner.route, conditioner.drop_prob) == ("mask", "concat", 0.2)


def test_wrong_values_are_refused() -> None:
    with pytest.raises(ConfigError, match="'film' of 'mask' is none of crossattn, concat, adm"):
        Conditioner("mask", "film")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"in \[0, 1\], got 1\.5"):
        Conditioner("mask", "concat", drop_prob=1.5)


def test_without_an_unconditional_value() -> None:
    with pytest.raises(ConfigError, match="Conditioner \\('mask'\\) has no unconditional value"):
        Conditioner("mask", "concat").null(2, torch.zeros(2))
