from __future__ import annotations

import pytest
import torch

from ldm.diffusion.latent_diffusion import latent_moments, scale_from_moments


def test_equals_the_unbiased_std_however_the_data_are_split() -> None:
    z = 3 + 2 * torch.randn(10, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    want = 1 / z.double().flatten().std().item()
    assert scale_from_moments(latent_moments([z])) == pytest.approx(want, rel=1e-12)
    ranks = [latent_moments(z[:3].split(2)), latent_moments([z[3:]])]
    assert scale_from_moments(ranks[0] + ranks[1]) == pytest.approx(want, rel=1e-12)


def test_constant_or_missing_latents_are_errors() -> None:
    with pytest.raises(ValueError, match="nothing to scale by"):
        scale_from_moments(latent_moments([torch.ones(3, 4)]))
    with pytest.raises(ValueError, match="undefined"):
        scale_from_moments(latent_moments([]))
