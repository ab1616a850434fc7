"""UNets of diffusers against those of this library: configurations, weights, outputs, refusals."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ldm.compat import native as unet
from ldm.compat.diffusers.unet import MODELS, unet_from_config, unet_to_config
from ldm.compat.diffusers.unet_weights import (
    is_diffusers_unet,
    unet_from_diffusers,
    unet_to_diffusers,
)
from ldm.compat.native import read_unet
from ldm.compat.rules import Inert, Renamed
from ldm.config import instantiate
from ldm.denoisers.unet import UNet
from ldm.errors import ConfigError

library = pytest.importorskip("diffusers")

CONTEXT = {"use_spatial_transformer": True, "context_dim": 6}
WIDTH = {"num_heads": -1, "num_head_channels": 8}


def unet_node(**changes: Any) -> dict[str, Any]:
    params: dict[str, Any] = {
        "in_channels": 4,
        "out_channels": 3,
        "model_channels": 16,
        "num_res_blocks": 1,
        "attention_resolutions": [1, 2],
        "channel_mult": [1, 2],
        "num_heads": 2,
        "norm_groups": 4,
    }
    return {"target": "ldm.denoisers.UNet", "params": params | changes}


KINDS = {
    "sd1": unet_node(**CONTEXT, legacy=False),
    "sd2": unet_node(**CONTEXT, **WIDTH, legacy=False, use_linear_in_transformer=True),
    "deep": unet_node(
        **CONTEXT, attention_resolutions=[2], channel_mult=[1, 2, 2], num_res_blocks=2
    ),
    "adm and context": unet_node(**CONTEXT, num_classes=5, transformer_depth=2),
    "context in the middle": unet_node(
        **CONTEXT, attention_resolutions=[], resblock_updown=True, use_scale_shift_norm=True
    ),
    "plain": unet_node(**WIDTH),
    "plain, one head": unet_node(num_heads=1, channel_mult=[1, 1]),
    "plain, default heads": unet_node(num_heads=-1, model_channels=32, attention_resolutions=[]),
    "plain, middle only": unet_node(attention_resolutions=[2]),
    "ddpm": unet_node(channel_mult=[1, 2, 3], **WIDTH, num_res_blocks=2, dropout=0.1),
    "adm": unet_node(
        **WIDTH,
        attention_resolutions=[2, 4],
        channel_mult=[1, 2, 2],
        num_classes=7,
        resblock_updown=True,
        use_scale_shift_norm=True,
    ),
    "other order": unet_node(**WIDTH, use_new_attention_order=True),
    "flat": unet_node(channel_mult=[1]),
}


def build(node: dict[str, Any]) -> Any:
    """In eval mode, with weights that are nowhere zero."""
    torch.manual_seed(0)
    model: nn.Module = instantiate(node)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


def theirs(config: dict[str, Any]) -> Any:
    return getattr(library, config["_class_name"]).from_config(config).eval()


@torch.no_grad()
def output(model: Any, node: dict[str, Any], side: int = 8) -> Tensor:
    """What a model of either library predicts."""
    params = node["params"]
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, params["in_channels"], side, side, generator=generator)
    t, y = torch.tensor([3, 977]), torch.tensor([4, 1])
    context = torch.randn(2, 5, params.get("context_dim", 1), generator=generator)
    ours = isinstance(model, UNet)
    conditions: dict[str, Tensor] = {}
    if "context_dim" in params:
        conditions["context" if ours else "encoder_hidden_states"] = context
    if "num_classes" in params:
        conditions["y" if ours else "class_labels"] = y
    result = model(x, t, **conditions)
    return result if ours else result.sample


def assert_equal(got: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    assert got.keys() == want.keys()
    for key, value in want.items():
        assert torch.equal(got[key], value), key


# -- what both sides say ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_export_is_the_same_function(kind: str) -> None:
    node = KINDS[kind]
    model, other = build(node), theirs(unet_to_config(node))
    state = unet_to_diffusers(model.state_dict(), read_unet(node))
    assert is_diffusers_unet(state)
    assert not is_diffusers_unet(model.state_dict())
    other.load_state_dict(state)
    want = output(model, node)
    assert want.abs().max() > 0.1
    torch.testing.assert_close(output(other, node), want, rtol=0, atol=1e-5)
    assert_equal(unet_from_diffusers(state, read_unet(node)), model.state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_import_is_the_same_function(kind: str) -> None:
    node = KINDS[kind]
    config = unet_to_config(node)
    torch.manual_seed(0)
    other = theirs(config)
    read = unet_from_config(dict(other.config))
    assert unet_to_config(read) == config
    model = instantiate(read).eval()
    model.load_state_dict(unet_from_diffusers(other.state_dict(), read_unet(read)))
    torch.testing.assert_close(output(model, node), output(other, node), rtol=0, atol=1e-5)
    again = unet_to_diffusers(model.state_dict(), read_unet(read))
    assert_equal(again, dict(other.state_dict()))


def test_names_of_2022() -> None:
    node = KINDS["plain"]
    state = build(node).state_dict()
    old = {}
    for key, value in unet_to_diffusers(state, read_unet(node)).items():
        for before, after in (
            ("to_q", "query"),
            ("to_k", "key"),
            ("to_v", "value"),
            ("to_out.0", "proj_attn"),
        ):
            key = key.replace(f".{before}.", f".{after}.")
        old[key] = value
    assert_equal(unet_from_diffusers(old, read_unet(node)), dict(state))


def test_strange_names_stay_and_missing_ones_are_missed() -> None:
    node = KINDS["plain"]
    state = unet_to_diffusers(build(node).state_dict(), read_unet(node))
    del state["mid_block.attentions.0.to_k.weight"]
    back = unet_from_diffusers(state | {"lora.up": torch.ones(1)}, read_unet(node))
    assert "middle_block.1.qkv.weight" not in back
    assert {"lora.up", "mid_block.attentions.0.to_q.weight"} <= back.keys()


@pytest.mark.parametrize("name", MODELS)
def test_every_argument_of_diffusers_is_known(name: str) -> None:
    signature = inspect.signature(getattr(library, name).__init__).parameters
    table = MODELS[name]
    assert table.keys() == signature.keys() - {"self"}
    for key, rule in table.items():
        if isinstance(rule, Renamed):
            assert rule.default == signature[key].default, key
        elif isinstance(rule, Inert):
            assert signature[key].default in rule.values, key


@pytest.mark.parametrize("name", MODELS)
def test_defaults_are_those_of_diffusers(name: str) -> None:
    with torch.device("meta"):
        ours = instantiate(unet_from_config({"_class_name": name}))
        count = getattr(library, name)().num_parameters()
    assert sum(p.numel() for p in ours.parameters()) == count


def test_every_native_argument_is_known() -> None:
    signature = inspect.signature(UNet).parameters
    assert unet.NATIVE.keys() == signature.keys()
    for key, rule in unet.NATIVE.items():
        if isinstance(rule, Renamed):
            assert rule.default == signature[key].default, key


STABLE_DIFFUSION = {
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "attention_resolutions": [4, 2, 1],
    "num_res_blocks": 2,
    "channel_mult": [1, 2, 4, 4],
    "use_spatial_transformer": True,
    "norm_groups": 32,
    "legacy": False,
}


@pytest.mark.parametrize(
    ("changes", "settings", "millions"),
    [
        ({"num_heads": 8, "context_dim": 768}, {"attention_head_dim": 8}, 859.520964),
        (
            {
                "num_heads": -1,
                "num_head_channels": 64,
                "context_dim": 1024,
                "use_linear_in_transformer": True,
            },
            {"attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True},
            865.910724,
        ),
    ],
)
def test_stable_diffusion(
    changes: dict[str, Any], settings: dict[str, Any], millions: float
) -> None:
    """The published sizes: settings and parameters as in the files on the hub."""
    node = unet_node(**STABLE_DIFFUSION | changes)
    config = unet_to_config(node)
    assert config.items() >= settings.items()
    assert config["down_block_types"] == ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"]
    with torch.device("meta"):
        state = unet_to_diffusers(instantiate(node).state_dict(), read_unet(node))
        other = theirs(config).state_dict()
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in other.items()}
    assert sum(value.numel() for value in other.values()) / 1e6 == pytest.approx(millions)


# -- what only one side can say ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (unet_node(), "model.params.num_heads: 2 heads, of another width at every level"),
        (unet_node(conv_resample=False), "params.conv_resample: diffusers has no UNet"),
        (unet_node(use_spatial_transformer=True), "params.context_dim: diffusers has no UNet"),
        (unet_node(**CONTEXT, resblock_updown=True), "params.resblock_updown: diffusers has no"),
        (unet_node(channel_mult=[1, 1], num_heads_upsample=4), "num_heads_upsample: 4 with num_h"),
        (
            unet_node(**CONTEXT, num_heads=-1, num_head_channels=6),
            "no heads that do not fill their 16 channels, as with num_heads=-1, num_head_chann",
        ),
        (unet_node(chanels=3), "model.params.chanels: unknown key .* did you mean"),
        (unet_node() | {"target": "mine.DiT"}, "a mine.DiT cannot be exported to diffusers; only"),
    ],
)
def test_not_in_diffusers(node: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        unet_to_config(node)
    assert "\n" not in str(error.value)


def test_heads_upsample_without_effect_exports() -> None:
    unet_to_config(unet_node(channel_mult=[1, 1], num_heads_upsample=4, legacy=False))
    unet_to_config(unet_node(**CONTEXT, num_heads_upsample=4))


SMALL = {
    "_class_name": "UNet2DConditionModel",
    "block_out_channels": [16, 32],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "norm_num_groups": 4,
}
PLAIN = SMALL | {
    "_class_name": "UNet2DModel",
    "down_block_types": ["AttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D"],
}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (SMALL | {"act_fn": "gelu"}, "act_fn='gelu' has no native counterpart"),
        (SMALL | {"addition_embed_type": "text_time"}, "addition_embed_type='text_time' has no"),
        (
            SMALL | {"transformer_layers_per_block": [1, 2]},
            "transformer_layers_per_block: .* one n",
        ),
        (SMALL | {"transformer_layers_per_block": [[1], 2]}, "transformer_layers_per_block"),
        (SMALL | {"layers_per_block": [2, 3]}, "layers_per_block: .* only one number"),
        (SMALL | {"attention_head_dim": 5}, "attention_head_dim: 5 heads do not divide"),
        (SMALL | {"attention_head_dim": [8]}, "attention_head_dim: .* heads do not divide"),
        (SMALL | {"attention_head_dim": "ab"}, "attention_head_dim: ab heads do not divide"),
        (SMALL | {"attention_head_dim": [2, 8]}, "neither the number nor the width of the heads"),
        (SMALL | {"block_out_channels": [16, 24]}, "24 is no multiple of the first, 16"),
        (SMALL | {"block_out_channels": 16}, "block_out_channels: expected a list of widths"),
        (SMALL | {"time_embedding_dim": 5}, "time_embedding_dim: 5 .* only 64 has"),
        (SMALL | {"resnet_time_scale_shift": "spatial"}, "resnet_time_scale_shift: 'spatial'"),
        (SMALL | {"down_block_types": ["KDownBlock2D"] * 2}, "'KDownBlock2D' has no native count"),
        (SMALL | {"up_block_types": ["UpBlock2D"] * 2}, "up_block_types: other blocks than in"),
        (SMALL | {"up_block_types": None}, "up_block_types: expected a list, one for each"),
        (SMALL | {"cross_attention_dim": None}, "cross_attention_dim: expected a whole number"),
        (SMALL | {"in_channels": 0}, "in_channels: expected a whole number"),
        (SMALL | {"in_chanels": 4}, "in_chanels: unknown key .* did you mean 'in_channels'"),
        (
            SMALL
            | {
                "down_block_types": ["CrossAttnDownBlock2D", "ResnetDownsampleBlock2D"],
                "up_block_types": ["ResnetUpsampleBlock2D", "CrossAttnUpBlock2D"],
            },
            "down_block_types: learned kernels at some levels and residual blocks at others",
        ),
        (PLAIN | {"downsample_type": "resnet"}, "downsample_type, upsample_type: "),
        (PLAIN | {"attention_head_dim": 5}, "attention_head_dim: 5 does not divide 16"),
        (PLAIN | {"resnet_time_scale_shift": "scale_shift"}, "attn_norm_num_groups: None has no"),
        (PLAIN | {"add_attention": False}, "add_attention=False has no native counterpart"),
        (SMALL | {"_class_name": "UNet3DConditionModel"}, "'UNet3DConditionModel'; only UNet2D"),
        ([], "expected the settings of a model, got a list"),
    ],
)
def test_no_native_counterpart(config: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        unet_from_config(config)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


def test_heads_of_the_whole_width() -> None:
    config = PLAIN | {"attention_head_dim": None}
    assert unet_from_config(config)["params"]["num_heads"] == 1
