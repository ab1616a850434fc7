from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from ldm.autoencoders.base import DiagonalGaussian
from ldm.autoencoders.identity import AutoencoderIdentity
from ldm.autoencoders.kl import AutoencoderKL
from ldm.autoencoders.networks import Architecture
from ldm.autoencoders.tiled import pad_to_multiple, reconstruct


def image(height: int, width: int) -> Tensor:
    return torch.arange(height * width).float().view(1, 1, height, width).expand(2, 3, -1, -1)


def test_sides_that_fit_are_left_alone() -> None:
    x = image(16, 24)
    assert pad_to_multiple(x, 8) is x


@pytest.mark.parametrize(
    ("size", "factor", "want"),
    [((61, 47), 8, (64, 48)), ((5, 40), 4, (8, 40)), ((3, 5), 8, (8, 8)), ((1, 1), 32, (32, 32))],
)
def test_padding_goes_right_and_below(
    size: tuple[int, int], factor: int, want: tuple[int, int]
) -> None:
    x = image(*size)
    padded = pad_to_multiple(x, factor)
    assert padded.shape[2:] == want
    assert torch.equal(padded[:, :, : size[0], : size[1]], x)


def test_it_mirrors_as_far_as_there_is_something_to_mirror() -> None:
    assert pad_to_multiple(image(1, 5), 8)[0, 0, 0].tolist() == [0, 1, 2, 3, 4, 3, 2, 1]
    assert pad_to_multiple(image(1, 3), 8)[0, 0, 0].tolist() == [0, 1, 2, 2, 2, 2, 2, 2]
    assert pad_to_multiple(image(3, 1), 4)[0, 0, :, 0].tolist() == [0, 1, 2, 1]


@pytest.mark.parametrize("size", [(61, 47), (3, 5), (1, 1), (32, 16)])
def test_reconstructions_have_the_size_of_the_image(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    sizes = Architecture(channels=4, channel_mult=(1, 1, 1), num_res_blocks=1, norm_groups=2)
    model = AutoencoderKL(sizes, embed_dim=2).eval()
    x = torch.rand(2, 3, *size) * 2 - 1
    with torch.no_grad():
        y = reconstruct(model, x)
        want = model.decode(model.encode(pad_to_multiple(x, 4)).mode())
        drawn = [reconstruct(model, x, torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert torch.equal(y, want[:, :, : size[0], : size[1]])
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert y.shape == drawn[0].shape == x.shape


def test_a_lossless_first_stage_gives_the_image_back() -> None:
    x = torch.rand(1, 3, 61, 47)
    assert torch.equal(reconstruct(AutoencoderIdentity(), x), x)
    unshuffle: Any = SimpleNamespace(
        downsampling_factor=4,
        encode=lambda x: DiagonalGaussian(
            torch.cat([torch.nn.functional.pixel_unshuffle(x, 4), torch.zeros(1, 48, 16, 12)], 1)
        ),
        decode=lambda z: torch.nn.functional.pixel_shuffle(z, 4),
    )
    assert torch.equal(reconstruct(unshuffle, x), x)
