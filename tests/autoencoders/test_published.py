"""Every published first stage has the parameters of its checkpoint, in its order."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.autoencoders.build import autoencoder
from tests.parity import official_keys, official_names, published_configs

PREFIX = "first_stage_model."


def first_stage(name: str) -> tuple[dict[str, Any], list[list[Any]]]:
    official = official_keys(name)
    params = published_configs()[official["config"]]["model"]["params"]
    prefix = ""
    if "first_stage_config" in params:
        params, prefix = params["first_stage_config"]["params"], PREFIX
    keys = [
        [key.removeprefix(prefix), shape, f"torch.{dtype}"]
        for key, shape, dtype in official["state_dict"]
        if key.startswith(prefix) and not key.startswith("loss.")
    ]
    return params, keys


@pytest.mark.parametrize("name", official_names())
def test_parameters(name: str) -> None:
    params, want = first_stage(name)
    with torch.device("meta"):
        model = autoencoder(params)
    assert [[k, list(v.shape), str(v.dtype)] for k, v in model.state_dict().items()] == want
    counts = official_keys(name)["counts"]["first_stage"]
    assert sum(p.numel() for p in model.parameters()) == counts["total_without_loss"]


def test_there_are_thirty_two() -> None:
    assert len(official_names()) == 32
