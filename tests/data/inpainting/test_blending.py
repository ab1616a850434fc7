from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from ldm.data.inpainting.blending import paste_seamlessly
from ldm.data.inpainting.masks import lama_masks


def image(seed: int = 0, size: tuple[int, int] = (32, 40)) -> Tensor:
    return torch.rand(3, *size, generator=torch.Generator().manual_seed(seed)) - 0.5


def hole(seed: int = 0, size: tuple[int, int] = (32, 40)) -> Tensor:
    mask = lama_masks("thick-256")(*size, np.random.default_rng(seed))
    return torch.from_numpy(mask)[None].float()


@pytest.mark.parametrize("seed", range(4))
def test_a_harmonic_difference_vanishes(seed: int) -> None:
    """A constant, a ramp, x y and x^2 - y^2 are their own continuation, also in several holes."""
    real, mask = image(), torch.zeros(1, 32, 40)
    mask[0, 3:20, 5 + seed : 22] = 1  # not at the edge of the image
    mask[0, 24:30, 20:38] = 1
    y, x = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1.25, 1.25, 40), indexing="ij")
    shift = torch.stack([0.1 + 0.2 * x, 0.1 * x - 0.2 * y, 0.3 * x * y])
    made = paste_seamlessly(real + shift, real, mask)
    assert (made - real).abs().max() < 1e-5


def test_a_constant_difference_vanishes_at_the_edge_too() -> None:
    real = image()
    for seed in range(8):
        made = paste_seamlessly(real + 0.3, real, hole(seed))
        assert (made - real).abs().max() < 1e-5


def test_known_pixels_stay_and_gradients_within_are_those_of_the_filling() -> None:
    real, filling, mask = image(0), image(1), torch.zeros(1, 32, 40)
    mask[0, 8:24, 10:30] = 1
    made = paste_seamlessly(filling, real, mask)
    assert torch.equal(made[:, mask[0] == 0], real[:, mask[0] == 0])
    shift = (made - filling)[:, 9:23, 11:29].double()
    laplacian = (
        4 * shift[:, 1:-1, 1:-1]
        - (shift[:, :-2, 1:-1] + shift[:, 2:, 1:-1])
        - (shift[:, 1:-1, :-2] + shift[:, 1:-1, 2:])
    )
    assert laplacian.abs().max() < 1e-5


def test_nothing_known_or_nothing_to_fill() -> None:
    real, filling = image(0), image(1)
    assert torch.equal(paste_seamlessly(filling, real, torch.zeros(1, 32, 40)), real)
    assert torch.allclose(paste_seamlessly(filling, real, torch.ones(1, 32, 40)), filling)
    single = torch.zeros(1, 32, 40)
    single[0, 4, 4] = 1
    made = paste_seamlessly(filling, real, single)
    around = [(3, 4), (5, 4), (4, 3), (4, 5)]
    shift = torch.stack([(real - filling)[:, i, j] for i, j in around]).mean(0)
    assert torch.allclose(made[:, 4, 4], filling[:, 4, 4] + shift, atol=1e-6)
