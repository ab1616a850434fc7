"""``config.json`` of diffusers against native nodes, in both directions, and what is refused."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from typing import Any

import pytest
import torch

from ldm.autoencoders.kl import AutoencoderKL
from ldm.autoencoders.networks import Architecture
from ldm.autoencoders.quantizer import VectorQuantizer
from ldm.autoencoders.vq import AutoencoderVQ
from ldm.compat import native as first_stage
from ldm.compat.diffusers.autoencoder import (
    KL_MODEL,
    VQ_MODEL,
    absent_convolutions,
    from_config,
    scale_factor,
    to_config,
)
from ldm.compat.native import read_first_stage
from ldm.compat.rules import Inert, Renamed
from ldm.config import instantiate
from ldm.errors import ConfigError
from tests.compat.first_stages import KINDS, kl, vq

SMALL_KL: dict[str, Any] = {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": "0.42.1",
    "block_out_channels": [8, 16],
    "down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"],
    "up_block_types": ["AttnUpDecoderBlock2D", "UpDecoderBlock2D"],
    "norm_num_groups": 4,
    "sample_size": 32,
}
SMALL_VQ = SMALL_KL | {"_class_name": "VQModel", "num_vq_embeddings": 9}


def architecture(config: dict[str, Any]) -> dict[str, Any]:
    params: dict[str, Any] = from_config(config)["params"]["architecture"]["params"]
    return params


# -- what both sides say ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_configurations_both_ways(kind: str) -> None:
    node = KINDS[kind]
    config = to_config(node, 0.3)
    assert scale_factor(config) == 0.3
    again = read_first_stage(from_config(config))
    want = read_first_stage(node)
    assert again.attention_levels == want.attention_levels
    assert (again.embed_dim, again.num_codes) == (want.embed_dim, want.num_codes)
    without = {"attn_resolutions": None, "dropout": None}  # compared by levels; not in diffusers
    assert {**again.architecture, **without} == {**want.architecture, **without}
    assert to_config(from_config(config), 0.3) == config


def test_attention_and_names() -> None:
    params = architecture(SMALL_KL)
    assert params["attn_resolutions"] == [16]
    assert params["resolution"] == 32
    assert (params["channels"], params["channel_mult"]) == (8, [1, 2])
    node = from_config(SMALL_VQ | {"latent_channels": 6, "vq_embed_dim": 2})["params"]
    assert node["architecture"]["params"]["z_channels"] == 6
    assert node["embed_dim"] == node["quantizer"]["params"]["dim"] == 2
    assert from_config(SMALL_VQ | {"latent_channels": 6})["params"]["embed_dim"] == 6


@pytest.mark.parametrize("size", [None, [512, 256], 1, "x", True, 10**9])
def test_a_nominal_side_that_tells_levels_apart_is_made_up(size: Any) -> None:
    params = architecture(SMALL_KL | {"sample_size": size})
    assert params["attn_resolutions"] == [params["resolution"] // 2] == [8]


def test_defaults_are_those_of_diffusers() -> None:
    library = pytest.importorskip("diffusers")
    for table, model in ((KL_MODEL, library.AutoencoderKL), (VQ_MODEL, library.VQModel)):
        signature = inspect.signature(model.__init__).parameters
        assert table.keys() == signature.keys() - {"self"}
        for key, rule in table.items():
            if isinstance(rule, Renamed):
                assert rule.default == signature[key].default, key
            elif isinstance(rule, Inert):
                assert signature[key].default in rule.values, key
        empty = {"_class_name": model.__name__}
        assert scale_factor(empty) == signature["scaling_factor"].default
        built = instantiate(from_config(empty))
        assert sum(p.numel() for p in built.parameters()) == model().num_parameters()


def test_every_native_argument_is_known() -> None:
    for table, cls in (
        (first_stage.KL, AutoencoderKL),
        (first_stage.VQ, AutoencoderVQ),
        (first_stage.QUANTIZER, VectorQuantizer),
    ):
        assert table.keys() == inspect.signature(cls).parameters.keys()
    defaults = {field.name: field.default for field in dataclasses.fields(Architecture)}
    table = first_stage.ARCHITECTURE
    assert {k: rule.default for k, rule in table.items() if isinstance(rule, Renamed)} == defaults


def test_absent_convolutions() -> None:
    assert absent_convolutions(SMALL_KL) == absent_convolutions(SMALL_VQ) == {}
    config = SMALL_KL | {"use_quant_conv": False, "use_post_quant_conv": False}
    assert absent_convolutions(config) == {"quant_conv": 8, "post_quant_conv": 4}


@pytest.mark.parametrize(
    "inert",
    [
        {"scaling_factor": 3, "force_upcast": False, "act_fn": "swish"},
        {"shift_factor": 0.1, "latents_mean": [0.0], "latents_std": [2.0]},
        {"_name_or_path": "x", "_use_default_values": ["sample_size"]},
    ],
)
def test_what_does_not_change_the_network(inert: dict[str, Any]) -> None:
    assert from_config(SMALL_KL | inert) == from_config(SMALL_KL)


# -- what only one side can say ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"act_fn": "gelu"}, "AutoencoderKL.act_fn: .*act_fn='gelu' has no native counterpart"),
        ({"block_out_channels": [8, 12]}, "block_out_channels: 12 is no multiple of the first, 8"),
        ({"block_out_channels": "abc"}, "block_out_channels: expected a list of widths, got 'abc'"),
        ({"block_out_channels": []}, "block_out_channels: expected a list of widths"),
        ({"block_out_channels": [8] * 40}, "block_out_channels: expected a list of widths"),
        ({"block_out_channels": [8, 1.5]}, "block_out_channels: expected a whole number .* 1.5"),
        ({"block_out_channels": [0, 0]}, "block_out_channels: expected a whole number"),
        ({"down_block_types": ["DownEncoderBlock2D"]}, "down_block_types: expected a list of 2"),
        ({"down_block_types": None}, "down_block_types: expected a list of 2"),
        ({"up_block_types": ["UpBlock2D"] * 2}, "up_block_types: 'UpBlock2D' has no native"),
        ({"up_block_types": [["x"]] * 2}, "up_block_types: .* has no native counterpart"),
        ({"up_block_types": ["UpDecoderBlock2D"] * 2}, "attention at other levels than in down"),
        ({"mid_block_add_attention": False}, "mid_block_add_attention: false together with Attn"),
        ({"mid_block_add_attention": "no"}, "mid_block_add_attention: expected true or false"),
        ({"use_quant_conv": 1}, "use_quant_conv: expected true or false"),
        ({"norm_num_groups": 3}, r"norm_num_groups: 3 does not divide the widths \[8, 16\]"),
        ({"norm_num_groups": None}, "norm_num_groups: expected a whole number"),
        ({"layers_per_block": 10**9}, "layers_per_block: expected a whole number from 1 to 64"),
        ({"latent_channels": -1}, "latent_channels: expected a whole number"),
        ({"latent_channels": True}, "latent_channels: expected a whole number"),
        ({"in_channels": 10**30}, "in_channels: expected a whole number"),
        ({"latent_chanels": 4}, "latent_chanels: unknown key .* did you mean 'latent_channels'"),
        ({"_class_name": "AutoencoderTiny"}, "'AutoencoderTiny'; only AutoencoderKL, VQModel and"),
        ({"_class_name": ["AutoencoderKL"]}, "_class_name: .*; only AutoencoderKL, VQModel and"),
        ({"_class_name": None}, "_class_name: missing; only AutoencoderKL, VQModel and"),
        ({"_class_name": "VQModel", "norm_type": "spatial"}, "VQModel.norm_type: .*'spatial'"),
        ({"_class_name": "VQModel", "num_vq_embeddings": 0}, "num_vq_embeddings: expected a whole"),
        ({"_class_name": "VQModel", "use_quant_conv": False}, "use_quant_conv: unknown key of VQ"),
        ({"_class_name": "VQModel", "vq_embed_dim": "8"}, "vq_embed_dim: expected a whole number"),
    ],
)
def test_no_native_counterpart(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        from_config(SMALL_KL | changes)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("value", [0, -1, "1", None, True, float("nan"), float("inf"), [1]])
def test_scale_factors(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"KL\.scaling_factor: expected a positive"):
        scale_factor(SMALL_KL | {"scaling_factor": value})


@pytest.mark.parametrize("config", [None, [], 3, "AutoencoderKL", {}])
def test_not_a_configuration(config: Any) -> None:
    with pytest.raises(ConfigError, match=r"expected the settings|_class_name: missing"):
        from_config(config)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (kl(tanh_out=True), "architecture.params.tanh_out: diffusers has no autoencoder with"),
        (kl(resample_with_conv=False), "params.resample_with_conv: diffusers has no autoencoder"),
        (kl(channel_mult=[2, 4]), "channel_mult: diffusers has no autoencoder whose first level"),
        (kl(embed_dim=3), "model.params.embed_dim: 3 with z_channels=4: diffusers has one latent"),
        (kl() | {"target": "mine.Autoencoder"}, "model: a mine.Autoencoder cannot be exported"),
        (kl(chanels=8), "architecture.params.chanels: unknown key .* did you mean 'channels'"),
        (vq() | {"partial": True}, "model.partial: unknown key beside target and params"),
    ],
)
def test_not_in_diffusers(node: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        to_config(node)


def test_other_parts_of_a_first_stage() -> None:
    node = copy.deepcopy(vq())
    node["params"]["quantizer"]["target"] = "mine.Codebook"
    with pytest.raises(ConfigError, match=r"params\.quantizer: a mine\.Codebook cannot"):
        to_config(node)
    node = copy.deepcopy(kl())
    node["params"]["architecture"] = torch.nn.Identity
    with pytest.raises(ConfigError, match=r"params\.architecture: expected a node"):
        to_config(node)
