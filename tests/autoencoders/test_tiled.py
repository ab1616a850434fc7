from __future__ import annotations

import pytest
import torch

from ldm.autoencoders.base import DiagonalGaussian
from ldm.autoencoders.identity import AutoencoderIdentity
from ldm.autoencoders.kl import AutoencoderKL
from ldm.autoencoders.networks import Architecture
from ldm.autoencoders.quantizer import VectorQuantizer
from ldm.autoencoders.tiled import TiledAutoencoder
from ldm.autoencoders.vq import AutoencoderVQ
from ldm.layers.tiling import Tiling
from tests.autoencoders.build import autoencoder
from tests.parity import assert_close, load_case

SMALL = Architecture(channels=32, channel_mult=(1, 2), num_res_blocks=1, z_channels=4)


@torch.no_grad()
def test_golden_patchwise() -> None:
    golden = load_case("ae_vq_noattn")
    patches, scale = golden.config["patchwise"], golden.config["patchwise"]["scale_factor"]
    inner = autoencoder(golden.config).eval()
    inner.load_state_dict(golden.weights)

    def tiled(kind: str, unit: int) -> TiledAutoencoder:
        sizes = [size // unit for size in patches[f"{kind}_ks"]]
        steps = [step // unit for step in patches[f"{kind}_stride"]]
        overlap = [size - step for size, step in zip(sizes, steps, strict=True)]
        return TiledAutoencoder(inner, Tiling(sizes, overlap))

    encoded = tiled("encode", patches["vqf"]).encode(golden.inputs["patch.image"]).mode()
    assert_close(encoded, golden.outputs["patch.encode"])
    z = golden.inputs["patch.z"] / scale
    decoded = tiled("decode", 1).decode(z, quantize=False)
    assert_close(decoded, golden.outputs["patch.decode"])
    assert_close(inner.decode(z, quantize=False), golden.outputs["patch.decode_whole"])
    small = golden.inputs["patch.z_small"] / scale
    one_tile = TiledAutoencoder(inner, Tiling(64, 32)).decode(small, quantize=False)
    assert_close(one_tile, golden.outputs["patch.decode_reduced"])


def models() -> list[torch.nn.Module]:
    torch.manual_seed(0)
    return [
        AutoencoderKL(SMALL, 4),
        AutoencoderVQ(SMALL, 4, VectorQuantizer(16, 4)),
        AutoencoderIdentity(3),
    ]


@pytest.mark.parametrize("index", [0, 1, 2])
@torch.no_grad()
def test_one_tile_is_the_first_stage_itself(index: int) -> None:
    inner = models()[index].eval()
    tiled, x = TiledAutoencoder(inner, Tiling(16, 4)), torch.randn(2, 3, 16, 12)
    mine, plain = tiled.encode(x), inner.encode(x)
    assert type(mine) is type(plain)
    assert torch.equal(mine.mode(), plain.mode())
    z = plain.mode()
    assert torch.equal(tiled.decode(z), inner.decode(z))
    assert tiled.latent_channels == inner.latent_channels
    assert tiled.downsampling_factor == inner.downsampling_factor


@pytest.mark.parametrize("index", [0, 1])
@torch.no_grad()
def test_large_images_are_nearly_the_same_and_seen_in_pieces(index: int) -> None:
    inner = models()[index].eval()
    seen: list[int] = []
    for part in (inner.encoder, inner.decoder):
        part.register_forward_hook(lambda module, args, out: seen.append(args[0].shape[-1]))
    tiled, x = TiledAutoencoder(inner, Tiling(16, 8)), torch.rand(1, 3, 64, 96) * 2 - 1
    posterior = tiled.encode(x)
    image = tiled.decode(posterior.mode())
    assert max(seen) == 32  # pixels of an encoder tile; a decoder tile has 16 latents
    seen.clear()
    whole = inner.encode(x)
    assert image.shape == x.shape
    assert (posterior.mode() - whole.mode()).abs().mean() < 0.2 * whole.mode().std()
    if isinstance(whole, DiagonalGaussian):
        assert posterior.logvar.shape == whole.logvar.shape
    z = whole.mode()
    pair = torch.stack([tiled.decode(z).flatten(), inner.decode(z).flatten()])
    assert torch.corrcoef(pair)[0, 1] > 0.7  # random networks; the normalisation sees a tile only


@torch.no_grad()
def test_quantising_before_or_after_the_cut_is_the_same() -> None:
    inner = models()[1].eval()
    tiled, z = TiledAutoencoder(inner, Tiling(8, 4)), torch.randn(1, 4, 16, 20)
    before = tiled.decode(inner.quantize(z).z, quantize=False)
    assert_close(tiled.decode(z), before, rtol=1e-5)


def test_sides_that_do_not_fit() -> None:
    tiled = TiledAutoencoder(models()[0].eval(), Tiling(8, 4))
    with pytest.raises(ValueError, match="all must be multiples of 2"):
        tiled.encode(torch.zeros(1, 3, 33, 40))
