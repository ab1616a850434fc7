from __future__ import annotations

import torch

from ldm.autoencoders.identity import AutoencoderIdentity


def test_the_latent_is_the_image() -> None:
    model = AutoencoderIdentity(channels=2)
    x = torch.randn(1, 2, 3, 5)
    assert (model.downsampling_factor, model.latent_channels) == (1, 2)
    assert model.encode(x).sample() is x
    assert model.decode(x) is x
    output = model(x)
    assert output.image is x
    assert output.codebook_loss is None
    assert not model.state_dict()
