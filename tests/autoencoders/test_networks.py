from __future__ import annotations

import dataclasses

import pytest
import torch

from ldm.autoencoders.networks import Architecture, AttnBlock, Decoder, Encoder
from tests.parity import assert_close, load_case

SMALL = Architecture(channels=32, channel_mult=[1, 2], num_res_blocks=1, resolution=16)


def test_attn_block_golden() -> None:
    case = load_case("attention_blocks")
    block = AttnBlock(32)
    weights = {k.removeprefix("spatial."): v for k, v in case.weights.items() if "spatial" in k}
    block.load_state_dict(weights)
    assert_close(block(case.inputs["x"]), case.outputs["spatial.y"])


def attention_keys(architecture: Architecture) -> set[str]:
    networks = {"encoder": Encoder(architecture, double_z=True), "decoder": Decoder(architecture)}
    return {
        f"{name}.{key.removesuffix('.q.weight')}"
        for name, network in networks.items()
        for key in network.state_dict()
        if key.endswith(".q.weight")
    }


def test_attention_follows_the_nominal_resolution() -> None:
    middle = {"encoder.mid.attn_1", "decoder.mid.attn_1"}
    assert attention_keys(SMALL) == middle
    assert attention_keys(dataclasses.replace(SMALL, attn_resolutions=[8])) == middle | {
        "encoder.down.1.attn.0",
        "decoder.up.1.attn.0",
        "decoder.up.1.attn.1",
    }
    off = dataclasses.replace(SMALL, attn_resolutions=[8], mid_attention=False)
    assert attention_keys(off) == set()


def test_channels_of_the_result() -> None:
    x = torch.randn(1, 3, 6, 4)
    assert Encoder(SMALL, double_z=False)(x).shape == (1, 4, 3, 2)
    assert Encoder(SMALL, double_z=True)(x).shape == (1, 8, 3, 2)
    other = dataclasses.replace(SMALL, out_channels=5)
    assert Decoder(other)(torch.randn(1, 4, 3, 2)).shape == (1, 5, 6, 4)


def test_narrow_networks_with_fewer_groups() -> None:
    narrow = dataclasses.replace(SMALL, channels=24, norm_groups=8, attn_resolutions=[8])
    for network in (Encoder(narrow, double_z=False), Decoder(narrow)):
        groups = {m.num_groups for m in network.modules() if isinstance(m, torch.nn.GroupNorm)}
        assert groups == {8}
    assert Encoder(narrow, double_z=False)(torch.randn(1, 3, 6, 4)).shape == (1, 4, 3, 2)


def test_tanh_out_bounds_the_image() -> None:
    z = 1e4 * torch.randn(1, 4, 3, 2)
    torch.manual_seed(0)
    plain = Decoder(SMALL)
    torch.manual_seed(0)
    bounded = Decoder(dataclasses.replace(SMALL, tanh_out=True))
    assert torch.equal(bounded(z), plain(z).tanh())


def test_keeps_channels_last() -> None:
    x = torch.randn(1, 3, 8, 4).contiguous(memory_format=torch.channels_last)
    encoder = Encoder(SMALL, double_z=False).to(memory_format=torch.channels_last)
    decoder = Decoder(SMALL).to(memory_format=torch.channels_last)
    z = encoder(x)
    assert z.is_contiguous(memory_format=torch.channels_last)
    assert decoder(z).is_contiguous(memory_format=torch.channels_last)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        Encoder(SMALL, double_z=False)(torch.randn(1, 3, 1, 8))
    with pytest.raises(ValueError, match="multiple of 32"):
        Encoder(dataclasses.replace(SMALL, channels=48), double_z=False)
    with pytest.raises(ValueError, match="at least one level"):
        Architecture(channel_mult=[])
