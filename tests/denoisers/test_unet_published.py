"""Every published UNet has the parameters of its checkpoint, in its order."""

from __future__ import annotations

import pytest
import torch

from ldm.denoisers.unet import UNet
from tests.parity import official_keys, official_names, published_configs

PREFIX = "model.diffusion_model."
NAMES = [name for name in official_names() if "unet" in official_keys(name)["counts"]]


@pytest.mark.parametrize("name", NAMES)
def test_parameters(name: str) -> None:
    official = official_keys(name)
    params = dict(
        published_configs()[official["config"]]["model"]["params"]["unet_config"]["params"]
    )
    del params["image_size"]
    with torch.device("meta"):
        model = UNet(**params)
    got = [[k, list(v.shape), str(v.dtype)] for k, v in model.state_dict().items()]
    want = [
        [key.removeprefix(PREFIX), shape, f"torch.{dtype}"]
        for key, shape, dtype in official["state_dict"]
        if key.startswith(PREFIX)
    ]
    assert got == want
    assert sum(p.numel() for p in model.parameters()) == official["counts"]["unet"]


def test_there_are_nineteen() -> None:
    assert len(NAMES) == 19
